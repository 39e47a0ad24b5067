"""The other promise: on a broker that keeps nothing no job is lost, since reconcile publishes again what is due.

Real jobs in a real database, `penstock consume optimisation upkeep` twice, `penstock triggers`, and a Redis that is
flushed and killed. A job is lost when it stays `received`; it must become `waiting`, by one unbroken chain of events.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import func, select

from pipeline.store import migration
from pipeline.store.database import Database
from pipeline.store.tables import job_events, jobs
from pipeline.transport.port import open_transport
from schemas.states import JobState
from tests.acceptance.system import FAST, System
from tests.building import site
from tests.chaos.checker import Verdict
from tests.chaos.nemesis import INSTANT, Fault, Kind, Kinds, Nemesis
from tests.chaos.report import Outcome
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.submitting import array, submit
from tests.waiting import eventually

LONG: Kinds = {
    Kind.FLUSH: INSTANT,
    Kind.CRASH: INSTANT,
    Kind.RESTART: INSTANT,
    Kind.KILL: INSTANT,
    Kind.CUT: INSTANT,
    Kind.PAUSE: (1.0, 5.0),
    Kind.FREEZE: (11.0, 15.0),
}
SHORT: Kinds = {Kind.FLUSH: INSTANT, Kind.KILL: INSTANT}
WAKE_AFTER = 2.0
"""Seconds until reconcile looks at a job that was published and is still `received`."""
QUICK = {
    "PENSTOCK_WAKE_AFTER": str(WAKE_AFTER),
    "PENSTOCK_SCHEDULES": json.dumps({"reconcile": "* * * * * */1", "deferred": "* * * * * */1"}),
}
"""Reconcile looks every second instead of every 30."""
TAKEOVER = 2
"""Seconds of silence after which a killed consumer's messages go to others."""
WINDOW = 1_000
"""Messages of a campaign in the queue at a time: all of them, so that a flush has something to take."""
RECOVERY = 90.0
"""Seconds within which work goes on after any fault, and within which all of it is done in the end."""


class Workforce:
    """Two consumers and the clock, as processes that may be killed."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._consumers = [self._start_consumer() for _ in range(2)]
        self._triggers = self._start("triggers")

    def kill(self, which: int) -> None:
        """kill -9 for consumer 0 or 1; another takes its place."""
        self._consumers[which].kill()
        self._consumers[which].wait()
        self._consumers[which] = self._start_consumer()

    def check(self) -> None:
        """AssertionError when one has ended by itself."""
        for process in (self._triggers, *self._consumers):
            assert process.poll() is None, f"a process ended with {process.returncode}:\n{self._system.logs()}"

    def _start_consumer(self) -> subprocess.Popen[bytes]:
        return self._start("consume", "optimisation", "upkeep")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """As `System.start`, but not nice: others on the machine would make the short form a long one."""
        system = self._system
        with (system.folder / f"{arguments[0]}-{len(system.processes)}.log").open("wb") as log:
            command = [sys.executable, "-m", "pipeline.cli", *arguments]
            process = subprocess.Popen(command, env=system.environment, stdout=log, stderr=log)
        system.processes.append(process)
        return process


def run(server: RedisServer, database_url: str, folder: Path, *, size: int, faults: Sequence[Fault]) -> Outcome:
    """Submit so many jobs, with these faults meanwhile, and wait until all wait for slots. Logs go to `folder`.

    AssertionError when a process ends that nobody killed, or work does not go on after a fault.
    """
    folder.mkdir(parents=True)
    database = Database(database_url)
    migration.upgrade(database)
    site(database)
    begun = time.monotonic()
    with Proxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0?takeover={TAKEOVER}"
        own = {"PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BROKER_URL": url}
        system = System(folder, {**FAST, **QUICK, **own})
        try:
            workforce = Workforce(system)
            nemesis = Nemesis(server, proxy, workforce.kill, folder / "faults.log")
            _work(database, size, faults, nemesis, workforce)
            verdict = _judge(database, size, folder)
        finally:
            system.end()
    database.close()
    return Outcome("flushed redis: jobs", size, faults, verdict, time.monotonic() - begun)


def _work(database: Database, size: int, faults: Sequence[Fault], nemesis: Nemesis, workforce: Workforce) -> None:
    """Submit the jobs share by share, with a fault in each."""
    submitted = 0
    for fault in faults:
        submitted += _submit(database, nemesis, round(fault.share * size) - submitted)
        eventually(partial(_have_left, database, fault.point * size), within=RECOVERY)
        workforce.check()
        submitted += _submit(database, nemesis, round(fault.ahead * size) - submitted)
        nemesis.strike(fault)
    with contextlib.suppress(AssertionError):  # those that have not left in time are the verdict
        eventually(partial(_have_left, database, size), within=RECOVERY, every=0.2)
    workforce.check()


def _submit(database: Database, nemesis: Nemesis, size: int) -> int:
    """Submit and publish as the API does, but not through the proxy: this end is not what faults are about."""
    if not size:
        return 0
    submitted = submit(database, {"name": "array", **array(size)}, window=WINDOW, wake_after=WAKE_AFTER)
    publisher = open_transport(nemesis.redis.url, "chaos-publisher")
    publisher.publish(submitted.messages)
    publisher.close()
    return size


def _have_left(database: Database, least: float) -> bool:
    """Whether so many jobs have left `received`."""
    query = select(func.count()).select_from(jobs).where(jobs.c.state != JobState.RECEIVED)
    return bool(database.read(lambda tx: tx.scalar(query)) >= least)


def _judge(database: Database, size: int, folder: Path) -> Verdict:
    """Lost: still `received`. Unexpected: a chain of events that is broken, or doubled. Recovered: by reconcile."""
    states = {row.id: row.state for row in database.read(lambda tx: tx.rows(select(jobs.c.id, jobs.c.state)))}
    assert len(states) == size, f"{len(states)} jobs are in the database; {size} were submitted"
    chains: defaultdict[int, list[tuple[str | None, str]]] = defaultdict(list)
    query = select(job_events.c.job_id, job_events.c.from_state, job_events.c.to_state).order_by(job_events.c.id)
    for row in database.read(lambda tx: tx.rows(query)):
        chains[row.job_id].append((row.from_state, row.to_state))
    lost = [job_id for job_id, state in states.items() if state == JobState.RECEIVED]
    return Verdict(
        attempted=size,
        confirmed=size,
        received=size - len(lost),
        lost=tuple(sorted(lost)),
        unexpected=tuple(sorted(job_id for job_id in states if chains[job_id] != _CHAINS[states[job_id]])),
        duplicated=sum(max(Counter(chain).values()) > 1 for chain in chains.values()),
        extra=0,
        recovered=_published_again(folder),
    )


_BEGUN: tuple[str | None, str] = (None, JobState.RECEIVED)
_CHAINS = defaultdict(
    list, {JobState.RECEIVED: [_BEGUN], JobState.WAITING: [_BEGUN, (JobState.RECEIVED, JobState.WAITING)]}
)
"""What the events of a job in this state must be; in any other state it should not be."""


def _published_again(folder: Path) -> int:
    """How many ids reconcile has published, by the consumers' logs."""
    lines = [line for path in folder.glob("consume-*.log") for line in path.read_text().splitlines()]
    again = [json.loads(line) for line in lines if '"overdue_rows_published"' in line]
    return sum(entry["labels"]["ids"] for entry in again)
