"""How fast received jobs become waiting ones: the whole consumer path, from message to acknowledged follow-up."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from sqlalchemy import exists, select

from pipeline.store import migration
from pipeline.store.database import Database
from pipeline.store.tables import jobs
from pipeline.transport.port import open_transport
from schemas.states import JobState
from tests.benchmarks.figures import Figure
from tests.building import site
from tests.servers import running_mariadb, running_redis
from tests.submitting import array, submit
from tests.waiting import eventually

JOBS = 50_000


def measure() -> list[Figure]:
    """One consumer process with one and with two workers, on MariaDB and Redis; its start is not counted."""
    with running_mariadb() as mariadb, running_redis() as redis:
        return [
            Figure(f"optimisation, {JOBS:,} jobs", f"1 consumer, {slots} worker(s)", rate, "jobs/s")
            for slots in (1, 2)
            for rate in [_rate(mariadb.new_database(), redis.url, slots)]
        ]


def _rate(database_url: str, broker_url: str, slots: int) -> float:
    database = Database(database_url)
    migration.upgrade(database)
    site(database)
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "PENSTOCK_DATABASE_URL": database_url,
            "PENSTOCK_BROKER_URL": broker_url,
            "PENSTOCK_DATA_DIR": folder,
            "PENSTOCK_CONSUMER_SLOTS": str(slots),
        }
        command = [sys.executable, "-m", "pipeline.cli", "consume", "optimisation"]
        consumer = subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.DEVNULL)
        try:
            _process(database, broker_url, 1)
            begun = time.perf_counter()
            _process(database, broker_url, JOBS)
            return JOBS / (time.perf_counter() - begun)
        finally:
            consumer.terminate()
            consumer.wait(30)
            database.close()


def _process(database: Database, broker_url: str, size: int) -> None:
    submitted = submit(database, {"name": "array", **array(size)})
    transport = open_transport(broker_url, "bench")
    transport.publish(submitted.messages)
    transport.close()
    received = exists().where(jobs.c.campaign_id == submitted.campaign_id, jobs.c.state == JobState.RECEIVED)
    eventually(lambda: not database.transact(lambda tx: tx.scalar(select(received))), within=120.0)
