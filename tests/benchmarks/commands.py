"""How fast commands go through 100,000 jobs that a filter means: kill and retry, in MariaDB, as the API runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from pipeline.store import job_commands, migration
from pipeline.store.database import Database, in_chunks
from pipeline.store.job_commands import Counted, JobFilter
from schemas.states import JobState
from tests.benchmarks.figures import Figure
from tests.benchmarks.lifecycle_processes import cpu_of
from tests.servers import MariaDbServer, running_mariadb
from tests.submitting import WAKE_AFTER, User, all_jobs, array, move, submit, user

JOBS = 100_000
WINDOW = 4
PER_MOVE = 10_000
SECONDS = 10.0
"""`Seconds`, not minutes: what a command over so many jobs may take, as the least rate that is expected of it."""


def measure() -> list[Figure]:
    """Kill what waits, what has just been received, and what failed; retry what failed."""
    figures = []
    with running_mariadb() as server:
        database = Database(server.new_database())
        migration.upgrade(database)
        owner = user(database)
        for name, states, command in (
            ("kill, waiting", (JobState.WAITING,), _kill),
            ("kill, received", (), _kill),
            ("kill, failed", (JobState.FAILED,), _kill),
            ("retry, failed", (JobState.FAILED,), _retry),
        ):
            campaign_id = _prepared(database, owner, states)
            figures += _measured(server, name, partial(command, database, owner.vo_id, campaign_id))
        database.close()
    return figures


def _prepared(database: Database, owner: User, states: tuple[JobState, ...]) -> int:
    """A campaign of one step whose jobs have come to the last of these states; its id."""
    campaign_id = submit(database, {"name": "array", **array(JOBS)}, owner=owner, window=WINDOW).campaign_id
    values = {"autocluster_id": 1} if JobState.WAITING in states else {}
    if states:
        for ids in in_chunks([job.id for job in all_jobs(database, campaign_id)], PER_MOVE):
            move(database, ids, *states, **values)
    return campaign_id


def _kill(database: Database, vo_id: int, campaign_id: int) -> Counted:
    return job_commands.kill(database, vo_id, JobFilter(campaign_id=campaign_id))


def _retry(database: Database, vo_id: int, campaign_id: int) -> Counted:
    chosen = JobFilter(campaign_id=campaign_id)
    return job_commands.retry(database, vo_id, chosen, window=WINDOW, wake_after=WAKE_AFTER)


def _measured(server: MariaDbServer, name: str, command: Callable[[], Counted]) -> list[Figure]:
    before = _statements(server)
    ours, theirs, begun = time.process_time(), cpu_of(server.pid), time.perf_counter()
    counted = command()
    seconds = time.perf_counter() - begun
    ours, theirs = time.process_time() - ours, cpu_of(server.pid) - theirs
    statements = _statements(server) - before
    assert counted.changed == JOBS, f"{name}: {counted.changed} of {JOBS} jobs changed"
    measure_of = f"{JOBS:,} jobs by filter"
    return [
        Figure(measure_of, name, seconds, "s"),
        Figure(measure_of, name, JOBS / seconds, "jobs/s", JOBS / SECONDS),
        Figure(measure_of, f"{name}, of a processor: ours", ours, "s"),
        Figure(measure_of, f"{name}, of a processor: MariaDB's", theirs, "s"),
        Figure(measure_of, name, statements, "statements"),
    ]


def _statements(server: MariaDbServer) -> int:
    return int(server.sql("SHOW GLOBAL STATUS LIKE 'Questions'").split()[1])
