"""Many jobs moved at once: exactly those that are named, by the same rules as one."""

from __future__ import annotations

import random
from functools import partial
from itertools import pairwise

import pytest
from sqlalchemy import select

from pipeline.store import job_commands
from pipeline.store.database import Contended, Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.many_jobs import Move, among, lock_many, move_many
from pipeline.store.tables import job_events, jobs, waiting_jobs
from schemas.states import JobState
from tests.building import pilot, site
from tests.submitting import all_jobs, array, move, submit

KILL = Move(JobState.RECEIVED, JobState.KILLED, "a test")


def _ids(database: Database, size: int) -> list[int]:
    return [job.id for job in all_jobs(database, submit(database, {"name": "a", **array(size)}).campaign_id)]


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_runs_and_single_ids_name_exactly_the_jobs_that_are_meant(database: Database, share: float) -> None:
    ids = _ids(database, 3_000)
    dice = random.Random(20261121)
    wanted = [job_id for job_id in ids if dice.random() < share]
    found: list[int] = []
    for condition in among(jobs.c.id, wanted):
        query = select(jobs.c.id).where(condition).order_by(jobs.c.id)
        found += [row.id for row in database.read(partial(Transaction.rows, query=query))]
    assert found == wanted


def test_every_job_gets_its_event_and_no_other_is_touched(database: Database) -> None:
    ids = _ids(database, 40)
    chosen = [job_id for job_id in ids if job_id % 3 and job_id < ids[30]]

    def kill(tx: Transaction) -> None:
        ((_, found),) = lock_many(tx, chosen).items()
        move_many(tx, found, KILL)

    database.transact(kill)
    events = select(job_events.c.job_id, job_events.c.from_state, job_events.c.reason)
    killed = database.read(lambda tx: tx.rows(events.where(job_events.c.to_state == JobState.KILLED)))
    assert sorted(tuple(row) for row in killed) == [(job_id, "received", "a test") for job_id in chosen]
    left = select(jobs.c.id).where(jobs.c.state == JobState.RECEIVED).order_by(jobs.c.id)
    assert [row.id for row in database.read(lambda tx: tx.rows(left))] == sorted(set(ids) - set(chosen))


@pytest.mark.parametrize(
    ("from_state", "to"),
    [
        (JobState.RUNNING, JobState.KILLED),
        (JobState.WAITING, JobState.MATCHED),
        (JobState.RECEIVED, JobState.WAITING),
        (JobState.DONE, JobState.RECEIVED),
    ],
    ids=lambda state: state.value,
)
def test_what_is_about_a_pilot_or_forbidden_is_refused(database: Database, from_state: JobState, to: JobState) -> None:
    ids = _ids(database, 2)
    with pytest.raises(ValueError, match=f"may not go from {from_state} to {to}"):
        database.transact(lambda tx: move_many(tx, ids, Move(from_state, to, "no")))


def test_jobs_that_are_not_as_they_were_locked_are_not_moved(database: Database) -> None:
    ids = _ids(database, 20)
    move(database, ids[7:8], JobState.HELD)
    moment = database.now()
    with pytest.raises(Contended, match="1 of 20"), database.engine.begin() as connection:
        move_many(Transaction(connection, moment), ids, KILL)
    assert [job.state for job in all_jobs(database, 1)].count(JobState.KILLED) == 0


def test_a_kill_by_filter_meets_jobs_in_every_state(database: Database) -> None:
    at = site(database)
    ids = _ids(database, 60)
    submitted = all_jobs(database, 1)[0].campaign_id
    received, held, waiting, failed, matched, done = (ids[start : start + 10] for start in range(0, 60, 10))
    move(database, held, JobState.HELD)
    move(database, failed, JobState.FAILED)
    move(database, [*waiting, *matched, *done], JobState.WAITING, autocluster_id=1)
    move(database, [*matched, *done], JobState.MATCHED, pilot_id=pilot(database, at), site_id=at.id)
    move(database, done, JobState.RUNNING, JobState.COMPLETING, JobState.DONE)
    counted = job_commands.kill(database, 1, JobFilter(campaign_id=submitted))
    assert (counted.changed, counted.requested) == (40, 10)
    states = {job.id: job.state for job in all_jobs(database, submitted)}
    assert {states[job_id] for job_id in (*received, *held, *waiting, *failed)} == {JobState.KILLED}
    assert {states[job_id] for job_id in matched} == {JobState.MATCHED}
    assert {states[job_id] for job_id in done} == {JobState.DONE}
    assert not database.read(lambda tx: tx.rows(select(waiting_jobs)))
    chain = select(job_events.c.from_state, job_events.c.to_state).order_by(job_events.c.job_id, job_events.c.id)
    of_one = database.read(lambda tx: tx.rows(chain.where(job_events.c.job_id == waiting[0])))
    assert all(earlier.to_state == later.from_state for earlier, later in pairwise(of_one))
