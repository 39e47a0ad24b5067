"""What each process says of itself when it is stuck, and when what it works with is away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
from sqlalchemy import text

from pipeline.store.instances import InstanceRow
from pipeline.store.schema import head
from tests.outside.outside.triggers import STICKS
from tests.outside.stage import OUTSIDE, QUEUE, Stage, rehearsal, stages
from tests.proxy import Proxy
from tests.servers import MariaDbServer, RedisServer
from tests.waiting import eventually

TOLD_WITHIN = 30.0
"""Seconds, promises the issue."""
HANG = 23.0
"""Seconds that an outage lasts here: longer than what a process that is stuck needs until it says so."""
SCRAPE = 10.0
"""Seconds that Prometheus waits for a process's numbers."""
SLOTS = 2
"""Workers of a consumer."""
THREADS = 40
"""That answer an API's requests."""
API = """
import threading, time
from pipeline.api import server
from pipeline.settings_file import load_settings

def create(services, make=server.create_app):
    app = make(services)

    @app.get("/freeze")
    async def freeze():
        time.sleep(600)

    @app.get("/hang")
    def hang():
        threading.Event().wait(600)

    return app

server.create_app = create
server.serve(load_settings())
"""
"""An API that has two defects."""

CONSUMERS = {"at work": "wait", "stopped": "wait", "deadlock": "deadlock", "stick": "stick"}
"""What is wrong with the message that each of them has."""
WORDS = {
    "stopped": "a worker has not answered",
    "deadlock": "all of its threads wait for locks",
    "stick": "the loop has not turned",
    "triggers": "the clock has not turned",
    "exhausted API": "none of 40 worker threads has been free",
    "frozen API": "no answer",
}
BROKER_AWAY = {
    "consumer": (503, [f"queue {QUEUE}: the broker can't be reached"]),
    "triggers": (503, ["the broker can't be reached"]),
    "api": (200, ["the broker can't be reached"]),
}
"""What each says to `/readyz`; an API answers requests without a broker."""


class Actors:
    """Processes beside a stage's consumers, on the same database and broker."""

    def __init__(self, stage: Stage, variables: Mapping[str, str]) -> None:
        self._stage = stage
        self._variables = variables
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> str:
        """The health URL of another process, once it is ready: python with these arguments."""
        settings = self._stage.settings
        own = {
            "PENSTOCK_DATA_DIR": str(settings.data_dir),
            "PENSTOCK_DATABASE_URL": settings.resolved_database_url(),
            "PENSTOCK_BROKER_URL": settings.resolved_broker_url(),
            "PENSTOCK_API_PORT": "0",
            "PYTHONPATH": str(OUTSIDE),
        }
        with self._stage.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], stderr=log, env={**os.environ, **own, **self._variables}
            )
        self._processes.append(process)
        (row,) = eventually(lambda: [row for row in self._stage.instances() if row.pid == process.pid], within=60)
        return health_url(row)

    def end(self) -> None:
        """By pid."""
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def acting(stage: Stage, variables: Mapping[str, str] | None = None) -> Iterator[Actors]:
    """Actors for as long as the block lasts."""
    with stage.database.engine.begin() as connection:  # as `db upgrade` leaves it
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": head()})
    actors = Actors(stage, variables or {})
    try:
        yield actors
    finally:
        actors.end()


def test_whatever_is_stuck_says_so_within_30_seconds_and_nothing_else_does(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    sticks = tmp_path / "sticks"
    schedule = {STICKS: str(sticks), "PENSTOCK_SCHEDULES": json.dumps({"sticking": "* * * * * *"})}
    with stages(tmp_path, redis_server.url), ExitStack() as stack:
        consumers = {name: stack.enter_context(consumer(tmp_path, name, redis_server)) for name in CONSUMERS}
        actors = stack.enter_context(acting(consumers["at work"], schedule))
        urls = {name: health_url(stage.instances()[0]) for name, stage in consumers.items()}
        urls["triggers"] = actors.start("-m", "pipeline.cli", "triggers")
        urls |= {name: actors.start("-c", API) for name in ("frozen API", "exhausted API")}
        eventually(lambda: {says(url) for url in urls.values()} == {200})
        assert_told(urls, lambda: _strike(consumers, urls, sticks))
        # what can't be reached makes a process unready, and nothing else does
        eventually(lambda: {name for name, url in urls.items() if complaint(url, "readyz")} == {"frozen API"})
        consumers["at work"].open_gate()
        consumers["at work"].wait_for([1, 2])


def _strike(consumers: Mapping[str, Stage], urls: Mapping[str, str], sticks: Path) -> None:
    """Whatever can go wrong does."""
    for name, fault in CONSUMERS.items():
        consumers[name].publish(rehearsal(1, 2, faults={1: fault}))
    eventually(consumers["stopped"].gate_reached)
    for worker in consumers["stopped"].all_workers():  # one is busy, one idle
        os.kill(worker, signal.SIGSTOP)
    sticks.touch()
    ask_in_vain([urls["frozen API"] + "/freeze", *[urls["exhausted API"] + "/hang"] * THREADS])


def assert_told(urls: Mapping[str, str], strike: Callable[[], None]) -> None:
    """Each of these processes says that it is stuck, in time and in words, but for the one that is at work."""
    strike()
    told = dict[str, str]()
    begun = time.monotonic()
    while time.monotonic() - begun < TOLD_WITHIN and len(told) < len(urls) - 1:
        told |= {name: words for name, url in urls.items() if name not in told and (words := complaint(url))}
    wanted = {name: (words, told.get(name)) for name, words in WORDS.items()}
    assert {name for name, (words, said) in wanted.items() if not said or words not in said} == set(), wanted
    assert "at work" not in told
    assert complaint(urls["stopped"]).count("has not answered") == SLOTS


def test_whatever_waits_for_a_database_and_a_broker_that_hang_is_alive_and_not_ready(
    tmp_path: Path, mariadb_server: MariaDbServer, redis_server: RedisServer
) -> None:
    redis_server.flush()
    with (
        Proxy(mariadb_server.port) as to_database,
        Proxy(redis_server.port) as to_broker,
        stages(tmp_path, f"redis://127.0.0.1:{to_broker.port}/0") as make,
    ):
        own = mariadb_server.new_database()
        stage = make(database_url=own.replace(f":{mariadb_server.port}/", f":{to_database.port}/"))
        with acting(stage) as actors:
            stage.start()
            urls = {
                "consumer": health_url(stage.instances()[0]),
                "triggers": actors.start("-m", "pipeline.cli", "triggers"),
                "api": actors.start("-c", API),
            }
            eventually(lambda: {says(url, "readyz") for url in urls.values()} == {200})
            to_broker.stall()
            try:
                assert_told_of_the_broker(urls)
            finally:
                to_broker.flow()
            eventually(lambda: [readiness(url) for url in urls.values()] == [(200, [])] * len(urls), within=60)
            to_database.stall()
            to_broker.stall()
            try:
                assert_alive_and_not_ready(urls)
            finally:
                to_database.flow()
                to_broker.flow()
            eventually(lambda: {says(url, "readyz") for url in urls.values()} == {200}, within=60)
            assert {says(url) for url in urls.values()} == {200}
            stage.publish(rehearsal(1))
            stage.wait_for([1])


def assert_told_of_the_broker(urls: Mapping[str, str]) -> None:
    """A broker that hangs alone is told by all; they stay alive, and the API ready."""

    def told() -> bool:
        assert {says(url) for url in urls.values()} == {200}
        return {name: readiness(url) for name, url in urls.items()} == BROKER_AWAY

    eventually(told, within=TOLD_WITHIN)


def assert_alive_and_not_ready(urls: Mapping[str, str]) -> None:
    """As each of these processes says, for longer than one that is stuck needs to say so."""
    begun = time.monotonic()
    ask_in_vain([urls["api"] + "/v1/whoami"] * 2 * THREADS)
    told = httpx.get(f"{urls['api']}/metrics", timeout=SCRAPE).text
    assert {"penstock_database_up 0.0", "penstock_broker_up 0.0"} <= set(told.splitlines())
    unready = dict[str, float]()
    while time.monotonic() - begun < HANG:
        assert {name: says(url) for name, url in urls.items()} == dict.fromkeys(urls, 200)
        unready |= {
            name: time.monotonic() - begun
            for name, url in urls.items()
            if name not in unready and says(url, "readyz") == 503
        }
    assert unready.keys() == urls.keys()


@contextmanager
def consumer(folder: Path, name: str, broker: RedisServer) -> Iterator[Stage]:
    """A consumer process on a database, and in a database of the broker, of its own."""
    own = folder / name
    own.mkdir()
    number = 1 + list(CONSUMERS).index(name)
    stage = Stage(own, broker.url.replace("/0", f"/{number}"), consumer_slots=SLOTS)
    try:
        stage.start()
        yield stage
    finally:
        stage.close()


def health_url(row: InstanceRow) -> str:
    assert row.health_url is not None
    return row.health_url


def says(url: str, what: str = "livez") -> int:
    """The status."""
    return httpx.get(f"{url}/{what}", timeout=5).status_code


def readiness(url: str) -> tuple[int, list[str]]:
    """Whether a process can do its work, and what it complains of."""
    reply = httpx.get(f"{url}/readyz", timeout=5)
    return reply.status_code, reply.json().get("complaints")


def complaint(url: str, what: str = "livez") -> str:
    """Why a process is not alive, or not ready; empty when it is."""
    try:
        reply = httpx.get(f"{url}/{what}", timeout=2)
    except httpx.TimeoutException:
        return "no answer"
    return "" if reply.is_success else reply.text


def ask_in_vain(urls: Sequence[str]) -> None:
    """Send these requests side by side, and do not wait for the answers."""
    with ThreadPoolExecutor(len(urls)) as clients:
        clients.map(_ask_in_vain, urls)


def _ask_in_vain(url: str) -> None:
    with suppress(httpx.HTTPError):
        httpx.get(url, headers={"Authorization": "Bearer none"}, timeout=1)
