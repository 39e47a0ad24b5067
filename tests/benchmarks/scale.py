"""Scaling `optimisation` by hand: 1, 2 and 4 consumers, each number with a backlog of 200,000 jobs, on MariaDB.

The consumers are processes of one worker each, as `penstock scale` would start them; nothing else runs but MariaDB and
Redis. All of it shares this machine's cores, so beside the rate stands whose processor time went where: what the shape
should be on two cores is in docs/explanation/scaling.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select, text

from pipeline.logs import configure_logging
from pipeline.settings import Settings
from pipeline.store import migration
from pipeline.store.campaigns import Submitted
from pipeline.store.database import Database
from pipeline.store.instances import list_instances
from pipeline.store.queue_sizes import Work, all_work
from pipeline.store.steps import JOBS_PER_MESSAGE
from pipeline.store.tables import jobs, steps
from pipeline.transport.port import open_transport
from schemas.states import JobState
from tests.benchmarks.figures import Figure
from tests.benchmarks.lifecycle_processes import Command, Program, cpu_of, running
from tests.building import site
from tests.servers import MariaDbServer, RedisServer, running_mariadb, running_redis, server_folder
from tests.submitting import array, submit
from tests.waiting import eventually

CONSUMERS = (1, 2, 4)
CAMPAIGNS, JOBS_EACH = 100, 2_000
"""Of a campaign only a window is in the queue at a time; of many there is enough for everybody."""
JOBS = CAMPAIGNS * JOBS_EACH
WARM = 400
"""Jobs that are gone before the clock starts, so that nobody's start counts."""
QUEUE = "optimisation"
RECEIVED = JobState.RECEIVED
_LONGEST = 1_200.0


def measure() -> list[Figure]:
    """Jobs per second, and the database's share of processor time and of workers' time, by the number of consumers."""
    configure_logging(Settings(log_level="warning"), "bench")
    figures = [Figure("cores of this machine", "all", os.cpu_count() or 1, "cores")]
    with running_mariadb() as mariadb, running_redis() as redis, server_folder("scale") as folder:
        for number in CONSUMERS:
            figures += _measured(mariadb, redis, number, folder)
    return figures


def _measured(mariadb: MariaDbServer, redis: RedisServer, number: int, folder: Path) -> list[Figure]:
    redis.flush()
    database = Database(mariadb.new_database())
    with database.engine.connect() as connection:
        connection.execute(text("SET GLOBAL userstat = ON"))
    migration.upgrade(database)
    site(database)
    variables = {
        "PENSTOCK_DATABASE_URL": database.url,
        "PENSTOCK_BROKER_URL": redis.url,
        "PENSTOCK_DATA_DIR": str(folder),
    }
    commands = [
        Command(f"{number}-{each}", ("pipeline.cli", "consume", QUEUE), variables) for each in range(1, number + 1)
    ]
    sizes = (WARM, *([JOBS_EACH] * CAMPAIGNS))
    campaigns = [submit(database, {"name": "array", **array(size)}) for size in sizes]
    with running(commands, folder) as consumers:
        figures = _worked_off(mariadb, redis, database, consumers, campaigns)
    database.close()
    mariadb.drop_database(database.url)
    return figures


def _worked_off(
    mariadb: MariaDbServer,
    redis: RedisServer,
    database: Database,
    consumers: Sequence[Program],
    campaigns: Sequence[Submitted],
) -> list[Figure]:
    warm, *backlog = campaigns
    transport = open_transport(redis.url, "bench")
    eventually(lambda: len(database.read(list_instances)) == len(consumers), within=60.0)
    transport.publish(warm.messages)
    eventually(lambda: not _any_left(database, [warm]), within=60.0)
    work = _told(database, WARM)
    before, answered = _cpu(mariadb, redis, consumers), _answering(database)
    begun = time.perf_counter()
    transport.publish([message for submitted in backlog for message in submitted.messages])
    eventually(lambda: not _any_left(database, backlog), within=_LONGEST, every=0.1)
    seconds = time.perf_counter() - begun
    after, answered = _cpu(mariadb, redis, consumers), _answering(database) - answered
    assert _states(database, backlog) == {JobState.WAITING: JOBS}, "jobs that are held or failed are no rate"
    more = _told(database, WARM + JOBS).since(work)
    transport.close()
    used = {name: after[name] - before[name] for name in after}
    whole = sum(used.values())
    subject = f"{len(consumers)} consumer{'s' if len(consumers) > 1 else ''}"
    return [
        Figure(f"{JOBS:,} jobs", subject, JOBS / seconds, "jobs/s"),
        Figure("the database's share of the processor time", subject, used["MariaDB"] / whole * 100, "%"),
        Figure("cores in use", subject, whole / seconds, "cores"),
        *(Figure(f"processor time of a job, {name}", subject, cpu / JOBS * 1e6, "us") for name, cpu in used.items()),
        Figure("time of a job in a worker", subject, more.busy_seconds / JOBS * 1e6, "us"),
        Figure("the database's share of that time", subject, answered / more.busy_seconds * 100, "%"),
    ]


def _told(database: Database, many: int) -> Work:
    """What consumers have told of their work, which they do every second, once all of it is told."""
    messages = many // JOBS_PER_MESSAGE
    eventually(lambda: database.read(all_work).get(QUEUE, Work(QUEUE)).settled >= messages)
    return database.read(all_work)[QUEUE]


def _answering(database: Database) -> float:
    """Seconds for which connections have had MariaDB work or wait on their behalf, all together."""
    with database.engine.connect() as connection:
        return float(connection.execute(text("SHOW GLOBAL STATUS LIKE 'Busy_time'")).one().Value)


def _any_left(database: Database, campaigns: Sequence[Submitted]) -> bool:
    mine = steps.c.campaign_id.in_([submitted.campaign_id for submitted in campaigns])
    received = select(jobs.c.id).join(steps, steps.c.id == jobs.c.step_id).where(mine, jobs.c.state == RECEIVED)
    return database.read(lambda tx: tx.first(received)) is not None


def _states(database: Database, campaigns: Sequence[Submitted]) -> dict[JobState, int]:
    mine = steps.c.campaign_id.in_([submitted.campaign_id for submitted in campaigns])
    counted = select(jobs.c.state, func.count().label("many")).join(steps, steps.c.id == jobs.c.step_id).where(mine)
    found = database.read(lambda tx: tx.rows(counted.group_by(jobs.c.state)))
    return {JobState(row.state): row.many for row in found}


def _cpu(mariadb: MariaDbServer, redis: RedisServer, consumers: Sequence[Program]) -> dict[str, float]:
    """Seconds of processor time used so far."""
    ours = sum(consumer.cpu for consumer in consumers)
    return {"MariaDB": cpu_of(mariadb.pid), "consumers": ours, "Redis": cpu_of(redis.pid)}
