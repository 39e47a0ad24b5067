"""Ten jobs behind a million: from their submission until all of them wait for a slot, against the same when alone.

A real consumer process on MariaDB and Redis, with the settings' own windows. The ten are submitted as the API does
it, many times: on the idle system, while another campaign's million jobs arrive, and while those are optimised.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from sqlalchemy import exists, func, select

from pipeline.settings import Settings
from pipeline.store import migration
from pipeline.store.campaigns import Submitted
from pipeline.store.database import Database
from pipeline.store.tables import jobs
from pipeline.transport.port import Transport, open_transport
from schemas.states import JobState
from tests.benchmarks.figures import Figure
from tests.building import site
from tests.servers import running_mariadb, running_redis
from tests.submitting import User, array, submit, user
from tests.waiting import eventually

MANY = 1_000_000
FEW = 10
TRIES = 25
LONGEST = 600.0
"""Seconds that the submission of the million may take."""
LEAST = 0.5
"""Alone over behind: within twice the time is expected."""


def measure() -> list[Figure]:
    """Medians of several tries each, in seconds, and their ratios."""
    with running_mariadb() as mariadb, running_redis() as redis:
        database = Database(mariadb.new_database())
        migration.upgrade(database)
        site(database)
        owner = user(database)
        transport = open_transport(redis.url, "bench")
        with _consumer(database.url, redis.url):
            _until_waiting(database, transport, owner)  # its start is not counted
            alone = [_until_waiting(database, transport, owner) for _ in range(TRIES)]
            arriving, behind = _beside_many(database, redis.url, transport, owner)
        transport.close()
        database.close()
    measure_of = f"{FEW} jobs, submission to waiting, median of {TRIES}"
    cases = {"alone": alone, f"while {MANY:,} arrive": arriving, f"behind {MANY:,}": behind}
    figures = [Figure(measure_of, name, median(tries), "s") for name, tries in cases.items()]
    figures += [Figure(measure_of, f"{name}, slowest", max(tries), "s") for name, tries in cases.items()]
    figures.append(Figure(measure_of, f"while {MANY:,} arrive / alone", median(arriving) / median(alone), "x"))
    figures.append(Figure(measure_of, f"behind {MANY:,} / alone", median(behind) / median(alone), "x"))
    return [*figures, Figure(measure_of, f"alone / behind {MANY:,}", median(alone) / median(behind), "x", LEAST)]


def _beside_many(
    database: Database, broker_url: str, transport: Transport, owner: User
) -> tuple[list[float], list[float]]:
    """The tries while the million arrive, and while they are optimised."""
    command = [sys.executable, "-m", "tests.benchmarks.head_of_line", database.url, broker_url]
    submission = subprocess.Popen(command)
    arriving = [_until_waiting(database, transport, owner) for _ in range(TRIES)]
    assert submission.wait(LONGEST) == 0
    behind = [_until_waiting(database, transport, owner) for _ in range(TRIES)]
    left = exists().where(jobs.c.state == JobState.RECEIVED, jobs.c.wake_at.is_(None))
    assert database.read(lambda tx: tx.scalar(select(left))), f"the {MANY:,} jobs did not last"
    return arriving, behind


def _until_waiting(database: Database, transport: Transport, owner: User) -> float:
    """Seconds that ten jobs take, at a moment of chance."""
    threading.Event().wait(random.uniform(0.1, 0.4))
    begun = time.perf_counter()
    submitted = _submit(database, transport, owner, FEW)
    mine = [job_id for message in submitted.messages for job_id in message.body.ids()]
    waiting = select(func.count()).where(jobs.c.id.in_(mine), jobs.c.state == JobState.WAITING)
    eventually(lambda: database.read(lambda tx: tx.scalar(waiting)) == FEW, within=60.0, every=0.005)
    return time.perf_counter() - begun


def _submit(database: Database, transport: Transport, owner: User, size: int) -> Submitted:
    settings = Settings()
    sizes = {"window": settings.campaign_window, "wake_after": settings.wake_after}
    submitted = submit(database, {"name": "array", **array(size)}, owner=owner, **sizes)
    transport.publish(submitted.messages)
    return submitted


@contextmanager
def _consumer(database_url: str, broker_url: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "PENSTOCK_DATABASE_URL": database_url,
            "PENSTOCK_BROKER_URL": broker_url,
            "PENSTOCK_DATA_DIR": folder,
        }
        command = [sys.executable, "-m", "pipeline.cli", "consume", "optimisation"]
        process = subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def _submit_many(database_url: str, broker_url: str) -> None:
    """In a process of its own, as an API's is."""
    database, transport = Database(database_url), open_transport(broker_url, "bench-many")
    _submit(database, transport, user(database, subject="bob"), MANY)
    transport.close()
    database.close()


if __name__ == "__main__":
    _submit_many(*sys.argv[1:])
