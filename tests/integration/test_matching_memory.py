"""What a matching process remembers never hides a job, a limit or a ban, and is taken for no more than it is."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import partial

from sqlalchemy import select, update

from consumers.matching import SPEC as MATCHING
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import jobs as jobs_store
from pipeline.store.database import Database, Transaction
from pipeline.store.jobs import Change
from pipeline.store.tables import autoclusters, jobs, slots
from schemas.messages import JobsWaiting, Message, SlotsOffered
from schemas.outcomes import Done
from schemas.states import JobState
from tests.backlog import person, waiting
from tests.building import ban, offering, site


def _offer(database: Database, *pilot_ids: int) -> list[Message]:
    message = Message.about(SlotsOffered(pilot_ids=pilot_ids), now=database.now())
    (outcome,) = MATCHING.execute(Context(Settings(), database, "test"), [message])
    assert isinstance(outcome, Done)
    return list(outcome.follow_ups)


def _indexes(database: Database, pilot_id: int) -> list[int]:
    query = select(jobs.c.array_index).where(jobs.c.pilot_id == pilot_id, jobs.c.state == "matched")
    return [row.array_index for row in database.read(lambda tx: tx.rows(query.order_by(jobs.c.id)))]


def _return(tx: Transaction, array_index: int) -> None:
    found = jobs_store.lock_where(tx, jobs_store.columns().where(jobs.c.array_index == array_index))
    jobs_store.apply(tx, [Change(job, JobState.WAITING) for job in found])


def test_a_job_that_comes_back_behind_those_taken_since_is_taken_again(database: Database) -> None:
    at = site(database)
    waiting(database, person(database, "default"), 6)
    _offer(database, offering(database, at))
    database.transact(partial(_return, array_index=1))
    second = offering(database, at)
    _offer(database, second)
    assert _indexes(database, second) == [1, 4, 5]


def test_a_slot_is_filled_from_many_small_autoclusters(database: Database) -> None:
    at = site(database)
    for number in range(20):
        waiting(database, person(database, "default"), requirements={"wall_time": 1_000 + number})
    pilot_ids = [offering(database, at, cores=16, memory=99_999, disk=99_999) for _ in range(2)]
    _offer(database, *pilot_ids)
    assert sum(len(_indexes(database, pilot_id)) for pilot_id in pilot_ids) == 20


def test_what_begins_to_wait_after_a_look_is_found_before_a_slot_is_parked(database: Database) -> None:
    at = site(database)
    first, second = offering(database, at), offering(database, at)
    _offer(database, first)
    waiting(database, person(database, "default"), 4)
    assert _offer(database, second) == []
    assert _indexes(database, second) == [0, 1, 2, 3]


def test_a_ban_holds_at_once(database: Database) -> None:
    at = site(database)
    waiting(database, person(database, "default"), 8)
    first, second = offering(database, at), offering(database, at)
    _offer(database, first)
    ban(database, at)
    _offer(database, second)
    assert _indexes(database, second) == []


def test_a_queue_in_test_mode_takes_jobs_of_one_type_alone(database: Database) -> None:
    at = site(database)
    waiting(database, person(database, "default"), 3)
    waiting(database, person(database, "default"), 2, job_type="test")
    ban(database, at, only_job_type="test")
    pilot_id = offering(database, at)
    _offer(database, pilot_id)
    kind = select(autoclusters.c.job_type).join(jobs, jobs.c.autocluster_id == autoclusters.c.id)
    rows = database.read(lambda tx: tx.rows(kind.where(jobs.c.pilot_id == pilot_id)))
    assert Counter(row.job_type for row in rows) == {"test": 2}


def test_a_place_is_kept_for_a_wide_job_that_has_waited_long(database: Database) -> None:
    at = site(database)
    waiting(database, person(database, "default"), 9)
    pilot_id = offering(database, at, cores=2)
    _offer(database, pilot_id)
    _offered_again(database, pilot_id, cores=4)
    waiting(database, person(database, "default", "bob"), requirements={"cores": 4})
    hours_ago = {"changed_at": database.now() - timedelta(hours=2)}
    database.transact(lambda tx: tx.run(update(jobs).where(jobs.c.state == "waiting").values(hours_ago)))
    _tell(database)
    _offer(database, pilot_id)
    assert _indexes(database, pilot_id) == [0, 1]
    reserved = select(slots.c.reserved_for).where(slots.c.pilot_id == pilot_id)
    assert database.read(lambda tx: tx.scalar(reserved)) is not None
    database.transact(_end_matched)
    _offered_again(database, pilot_id, cores=4)
    _offer(database, pilot_id)
    widths = select(jobs.c.cores).where(jobs.c.pilot_id == pilot_id, jobs.c.state == "matched")
    assert [row.cores for row in database.read(lambda tx: tx.rows(widths))] == [4]
    assert database.read(lambda tx: tx.scalar(reserved)) is None


def _offered_again(database: Database, pilot_id: int, **columns: int) -> None:
    mine = slots.c.pilot_id == pilot_id
    database.transact(lambda tx: tx.run(update(slots).where(mine).values(state="offered", **columns)))


def _tell(database: Database) -> None:
    """News of everything that waits."""
    ids = tuple(row.id for row in database.read(lambda tx: tx.rows(select(autoclusters.c.id))))
    message = Message.about(JobsWaiting(autocluster_ids=ids), now=database.now())
    MATCHING.execute(Context(Settings(), database, "test"), [message])


def _end_matched(tx: Transaction) -> None:
    found = jobs_store.lock_where(tx, jobs_store.columns().where(jobs.c.state == "matched"))
    jobs_store.apply(tx, [Change(job, JobState.FAILED, "gone") for job in found])


def test_news_of_an_autocluster_that_is_empty_by_now_do_no_harm(database: Database) -> None:
    site(database)
    message = Message.about(JobsWaiting(autocluster_ids=(1, 2, 3)), now=database.now())
    assert MATCHING.execute(Context(Settings(), database, "test"), [message]) == [Done()]
