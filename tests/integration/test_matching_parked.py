"""Slots that are parked get jobs that begin to wait, however many others are parked, full or of no use."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import func, select, update

from consumers.matching import SPEC as MATCHING
from executors.matching import shell
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.tables import autoclusters, jobs, slots
from schemas.messages import JobsWaiting, Message, SlotsOffered
from schemas.outcomes import Done, Retry
from tests.backlog import person, waiting
from tests.building import offering, site


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parked slots are read and locked by twos and threes."""
    monkeypatch.setattr(shell, "FIRST_PARKED", 2)
    monkeypatch.setattr(shell, "MOST_PARKED", 3)


def _offer(database: Database, *pilot_ids: int) -> None:
    message = Message.about(SlotsOffered(pilot_ids=pilot_ids), now=database.now())
    MATCHING.execute(Context(Settings(), database, "test"), [message])


def _tell(database: Database) -> None:
    """News of everything that waits."""
    ids = tuple(row.id for row in database.read(lambda tx: tx.rows(select(autoclusters.c.id))))
    message = Message.about(JobsWaiting(autocluster_ids=ids), now=database.now())
    MATCHING.execute(Context(Settings(), database, "test"), [message])


def _matched(database: Database) -> Counter[int]:
    query = select(jobs.c.pilot_id).where(jobs.c.state == "matched")
    return Counter(row.pilot_id for row in database.read(lambda tx: tx.rows(query)))


def _states(database: Database) -> Counter[str]:
    query = select(slots.c.state, func.count().label("many")).group_by(slots.c.state)
    return Counter({row.state: row.many for row in database.read(lambda tx: tx.rows(query))})


@pytest.mark.usefixtures("_few")
def test_full_parked_slots_hide_no_free_one(database: Database) -> None:
    at = site(database)
    waiting(database, person(database, "default"), 28)
    full = [offering(database, at, cores=4) for _ in range(7)]
    _offer(database, *full)
    database.transact(lambda tx: tx.run(update(slots).values(state="parked")))
    free = offering(database, at, state="parked", cores=4)
    waiting(database, person(database, "default"), 2)
    _tell(database)
    assert _matched(database) == {free: 2, **dict.fromkeys(full, 4)}


@pytest.mark.usefixtures("_few")
def test_slots_at_a_site_that_has_reached_its_limit_hide_no_free_one(database: Database) -> None:
    closed, open_ = site(database, "CLOSED", running=0), site(database, "OPEN")
    for _ in range(7):
        offering(database, closed, state="parked")
    free = offering(database, open_, state="parked")
    waiting(database, person(database, "default"), 3)
    _tell(database)
    assert _matched(database) == {free: 3}


@pytest.mark.usefixtures("_few")
def test_slots_that_suit_one_kind_of_news_hide_none_that_suits_another(database: Database) -> None:
    small, large = site(database, "SMALL"), site(database, "LARGE", tags=("big",))
    for _ in range(7):
        offering(database, small, state="parked", cores=1)
    free = offering(database, large, state="parked", cores=1)
    waiting(database, person(database, "default"), 2)
    waiting(database, person(database, "default", "bob"), 1, requirements={"tags": ["big"]})
    _tell(database)
    assert _matched(database)[free] == 1
    assert _matched(database).total() == 3


@pytest.mark.usefixtures("_few")
def test_news_of_many_jobs_fill_every_parked_slot(database: Database) -> None:
    at = site(database)
    pilot_ids = [offering(database, at, state="parked", cores=2) for _ in range(11)]
    waiting(database, person(database, "default"), 30)
    _tell(database)
    assert _matched(database) == dict.fromkeys(pilot_ids, 2)


def test_news_of_one_job_touch_one_parked_slot(database: Database) -> None:
    at = site(database)
    for _ in range(20):
        offering(database, at, state="parked")
    waiting(database, person(database, "default"))
    _tell(database)
    assert _matched(database).total() == 1
    assert _states(database) == {"served": 1, "parked": 19}


def test_a_slot_that_another_transaction_holds_hides_no_other(database: Database) -> None:
    if database.dialect == "sqlite":
        return  # its transactions come one after the other
    at = site(database)
    held, free = (offering(database, at, state="parked") for _ in range(2))
    waiting(database, person(database, "default"))
    with database.engine.begin() as connection:
        connection.execute(select(slots).where(slots.c.pilot_id == held).with_for_update())
        _tell(database)
    assert _matched(database) == {free: 1}


def test_news_of_more_autoclusters_than_one_transaction_looks_at_are_all_dealt_with(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "MOST_NEWS", 2)
    at = site(database)
    for seconds in range(1_000, 1_005):
        waiting(database, person(database, "default"), requirements={"wall_time": seconds})
    offering(database, at, state="parked", cores=4)
    offering(database, at, state="parked", cores=4)
    _tell(database)
    assert _matched(database).total() == 5


def test_news_of_jobs_that_somebody_holds_come_back_later_and_not_at_once(database: Database) -> None:
    if database.dialect == "sqlite":
        return  # its transactions come one after the other
    free = offering(database, site(database), state="parked")
    ids = waiting(database, person(database, "default"), 2)
    cluster = database.read(lambda tx: tx.scalar(select(autoclusters.c.id)))
    context = Context(Settings(), database, "test")
    news = Message.about(JobsWaiting(autocluster_ids=(cluster,)), now=database.now())
    with database.engine.begin() as connection:
        connection.execute(select(jobs).where(jobs.c.id.in_(ids)).with_for_update())
        (outcome,) = MATCHING.execute(context, [news])
    assert isinstance(outcome, Retry)
    assert MATCHING.execute(context, [news]) == [Done()]
    assert _matched(database) == {free: 2}
