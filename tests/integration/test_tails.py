"""The last jobs of a step are boosted over all others of their owner, once, and only when they are the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Row, event, func, select

from executors.upkeep.shell import DUTIES
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import half_done, jobs, migration, steps
from pipeline.store.database import Database
from pipeline.store.jobs import JobRow
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import waiting_jobs
from pipeline.store.tails import BOOST, late_steps
from schemas.campaign import HIGHEST_PRIORITY
from schemas.states import JobState
from tests.building import offering, site
from tests.servers import MariaDbServer
from tests.submitting import all_jobs, array, move, submit


def _tick(database: Database) -> None:
    assert DUTIES["tails"](Context(Settings(), database, "test")) == []


def _campaign(database: Database, size: int, over: int, *, priority: int = 0) -> list[JobRow]:
    """The jobs of a step of so many, the first `over` of them failed, the others waiting."""
    campaign_id = submit(database, {"name": "a", "priority": priority, **array(size)}).campaign_id
    ids = [job.id for job in all_jobs(database, campaign_id)]
    move(database, ids[:over], JobState.FAILED)
    move(database, ids[over:], JobState.WAITING, autocluster_id=1, priority=priority)
    return all_jobs(database, campaign_id)


def _priorities(database: Database, found: list[JobRow]) -> list[int]:
    ids = [job.id for job in found if job.state is JobState.WAITING]
    return [job.priority for job in database.transact(lambda tx: jobs.lock(tx, ids))]


def _is_true(database: Database) -> bool:
    """Whether `waiting_jobs` says what the jobs say."""
    columns = (jobs_table.c.autocluster_id, -jobs_table.c.priority, jobs_table.c.id)
    waiting = select(*columns).where(jobs_table.c.state == JobState.WAITING)
    said = database.read(lambda tx: {tuple(row) for row in tx.rows(waiting)})
    return said == database.read(lambda tx: {tuple(row) for row in tx.rows(select(waiting_jobs))})


def test_the_last_twentieth_of_a_step_goes_before_all_others_of_the_owner(database: Database) -> None:
    others = _campaign(database, 3, 0, priority=HIGHEST_PRIORITY)
    tail = _campaign(database, 40, 38, priority=-5)
    _tick(database)
    assert _priorities(database, tail) == [BOOST - 5] * 2
    assert _priorities(database, others) == [HIGHEST_PRIORITY] * 3
    assert min(_priorities(database, tail)) > HIGHEST_PRIORITY
    assert _is_true(database)


def test_nothing_is_boosted_twice(database: Database) -> None:
    tail = _campaign(database, 20, 19)
    _tick(database)
    _tick(database)
    assert _priorities(database, tail) == [BOOST]
    assert _is_true(database)


@pytest.mark.parametrize(("size", "over"), [(20, 18), (1, 0), (100, 94)])
def test_what_is_not_the_last_twentieth_is_left_alone(database: Database, size: int, over: int) -> None:
    early = _campaign(database, size, over)
    _tick(database)
    assert set(_priorities(database, early)) == {0}


def test_more_jobs_than_a_tail_has_are_left_alone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.tails.MOST_LEFT", 2)
    many = _campaign(database, 100, 97)
    _tick(database)
    assert _priorities(database, many) == [0] * 3


def test_jobs_that_run_count_as_left_and_are_not_touched(database: Database) -> None:
    at = site(database)
    tail = _campaign(database, 40, 38)
    running = tail[-1].id
    move(database, [running], JobState.MATCHED, pilot_id=offering(database, at), site_id=at.id)
    _tick(database)
    by_id = {job.id: job.priority for job in all_jobs(database, tail[0].campaign_id)}
    assert (by_id[tail[-2].id], by_id[running]) == (BOOST, 0)
    assert _is_true(database)


def test_a_retried_job_of_a_tail_is_boosted_when_it_waits_again(database: Database) -> None:
    tail = _campaign(database, 40, 39)
    _tick(database)
    retried = tail[0].id
    move(database, [retried], JobState.RECEIVED)
    _tick(database)
    move(database, [retried], JobState.WAITING, autocluster_id=1, priority=0)
    _tick(database)
    assert {job.priority for job in all_jobs(database, tail[0].campaign_id) if job.state is JobState.WAITING} == {BOOST}
    assert database.read(lambda tx: tx.scalar(select(func.count()).select_from(waiting_jobs))) == 2
    assert _is_true(database)


def test_no_look_for_steps_reads_all_jobs(mariadb_server: MariaDbServer) -> None:
    """Of EXISTS the optimiser of MariaDB makes just that, when it sees fit: at ten million jobs, twice a minute."""
    database = Database(mariadb_server.new_database())
    migration.upgrade(database)
    for size in (*(1,) * 40, 5_000):
        submit(database, {"name": "a", **array(size)})
    name = database.url.rpartition("/")[2]
    mariadb_server.sql("ANALYZE TABLE jobs, steps, campaigns", database=name)
    statements = _statements(database)
    looks = (late_steps, steps.starved_steps, steps.all_ended_steps, half_done.half_cancelled, half_done.half_paused)
    for look in looks:
        database.read(look)
    of_jobs = [plan for statement in list(statements) for plan in _plans(database, *statement) if plan.table == "jobs"]
    assert len(of_jobs) >= 5
    assert {plan.type for plan in of_jobs} == {"ref"}
    database.close()


def _statements(database: Database) -> list[tuple[str, Any]]:
    """What the database is asked from now on about steps."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "FROM steps" in statement or "FROM campaigns" in statement:
            asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    return asked


def _plans(database: Database, statement: str, parameters: Any) -> Sequence[Row[Any]]:
    with database.engine.begin() as connection:
        return connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).all()
