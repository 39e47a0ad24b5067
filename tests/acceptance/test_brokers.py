"""Campaigns on MariaDB and each broker: the demo's passes on all of them, and one goes on when its broker restarts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.acceptance.system import QUEUES, System, ended, ledger_campaign, penstock_apart, penstock_up, started_twice
from tests.activemq import ActiveMqServer
from tests.rabbitmq import RabbitMqServer
from tests.servers import MariaDbServer, RedisServer
from tests.waiting import eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "zmumu"
JOBS = 60

Start = Callable[[Path, dict[str, str]], AbstractContextManager[System]]


def _redis(request: pytest.FixtureRequest) -> Iterator[str]:
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    yield server.url


def _amqp(request: pytest.FixtureRequest) -> Iterator[str]:
    server: RabbitMqServer = request.getfixturevalue("rabbitmq_server")
    vhost = server.new_vhost()
    yield server.amqp_url_of(vhost)
    server.drop_vhost(vhost)


def _stomp(request: pytest.FixtureRequest) -> Iterator[str]:
    server: RabbitMqServer = request.getfixturevalue("rabbitmq_server")
    vhost = server.new_vhost()
    yield server.stomp_url_of(vhost)
    server.drop_vhost(vhost)


def _activemq(request: pytest.FixtureRequest) -> Iterator[str]:
    server: ActiveMqServer = request.getfixturevalue("activemq_server")
    yield server.url


BROKERS: dict[str, tuple[Callable[[pytest.FixtureRequest], Iterator[str]], Start]] = {
    "Redis": (_redis, penstock_apart),
    "RabbitMQ by AMQP": (_amqp, penstock_apart),
    "RabbitMQ by STOMP": (_stomp, penstock_up),
    "ActiveMQ by STOMP": (_activemq, penstock_up),
}
"""By broker, its URL for a test, and whether each process is started by itself or all by `penstock up`."""


@pytest.fixture
def database_url(mariadb_server: MariaDbServer) -> Iterator[str]:
    url = mariadb_server.new_database()
    yield url
    mariadb_server.drop_database(url)


@pytest.fixture(params=BROKERS)
def start(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> Iterator[Callable[[], System]]:
    """Starts everything on one of the brokers."""
    open_broker, begin = BROKERS[request.param]
    opened = open_broker(request)
    servers = {"PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BROKER_URL": next(opened)}
    running: list[AbstractContextManager[System]] = []

    def started() -> System:
        running.append(begin(tmp_path, servers))
        return running[0].__enter__()

    yield started
    for everything in running:
        everything.__exit__(None, None, None)
    next(opened, None)


def test_the_demo_campaign_passes(start: Callable[[], System], tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "zmumu")
    system = start()
    system.run("sites", "apply", str(tmp_path / "zmumu" / "sites.yaml"))
    system.run("submit", "--wait", str(tmp_path / "zmumu" / "campaign.yaml"))
    (merge,) = system.json("jobs", "list", "--step", "merge")
    system.run("jobs", "output", str(merge["id"]), "--to", str(tmp_path / "out"))
    queues = {row["queue"]: row for row in system.json("queues")}
    assert all(queues[name]["consumers"] == 1 for name in QUEUES)
    assert not (system.data_dir / "redis.sock").exists(), "no broker of its own beside the one that is set"
    assert all(finding["ok"] for finding in system.json("doctor"))
    result = json.loads((tmp_path / "out" / "zmumu.json").read_text())
    assert (result["events"], result["peak_bin"], round(result["median"], 2)) == (10_583, [90, 91], 90.28)
    assert (tmp_path / "out" / "zmumu.png").read_bytes().startswith(b"\x89PNG")


def test_a_campaign_goes_on_when_its_broker_is_killed_and_started_again(
    rabbitmq_server: RabbitMqServer, database_url: str, tmp_path: Path
) -> None:
    vhost = rabbitmq_server.new_vhost()
    servers = {"PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BROKER_URL": rabbitmq_server.amqp_url_of(vhost)}
    ledger = tmp_path / "ledger.txt"
    with penstock_apart(tmp_path, servers) as system:
        system.apply_sites()
        urls = eventually(lambda: _health(system), within=90)
        campaign_id = system.submit(ledger_campaign(tmp_path, JOBS))
        eventually(lambda: ledger.exists() and "end" in ledger.read_text(), within=90)
        rabbitmq_server.kill()
        alive = [httpx.get(f"{url}/livez", timeout=10).status_code for url in urls]
        rabbitmq_server.start()
        eventually(lambda: ended(system, campaign_id), within=180, every=0.5)
        shown = system.json("campaigns", "show", str(campaign_id))
        still = [process.poll() for process in system.processes]
        eventually(lambda: _spoken(system, "broker_back") == _spoken(system, "broker_lost"))
        lost = _spoken(system, "broker_lost")
    rabbitmq_server.drop_vhost(vhost)
    assert shown["state"] == "done", json.dumps(shown, indent=1) + system.logs()
    assert (alive, still) == ([200, 200, 200], [None, None, None])
    assert lost == {"api": ["api"], "consume": sorted(QUEUES), "triggers": ["triggers"]}, "once per connection"
    assert started_twice(tmp_path) == []


def _health(system: System) -> list[str]:
    """Where the three processes tell of themselves, once all do."""
    urls = [row["health_url"] for row in system.json("instances")]
    return urls if len(urls) == len(system.processes) else []


def _spoken(system: System, event: str) -> dict[str, list[str]]:
    """By process, whose connections such log lines are about."""
    found: dict[str, list[str]] = {}
    for log in system.folder.glob("*-?.log"):
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line[-1] == "}"]
        command = log.name.partition("-")[0]
        found[command] = sorted(line["labels"]["queue"] for line in lines if line["message"] == event)
    return found
