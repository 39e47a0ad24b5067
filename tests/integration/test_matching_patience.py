"""Jobs that wait long: all levels of an autocluster are seen, and how long each has waited is known."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from consumers.matching import SPEC as MATCHING
from executors.matching import shell
from executors.matching.memory import fresh_for, memory_of
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.tables import jobs
from schemas.messages import Message, SlotsOffered
from schemas.outcomes import Done
from tests.backlog import person, waiting
from tests.building import offering, site


def _offer(database: Database, *pilot_ids: int) -> None:
    message = Message.about(SlotsOffered(pilot_ids=pilot_ids), now=database.now())
    MATCHING.execute(Context(Settings(), database, "test"), [message])


def _waited(database: Database, job_ids: list[int], days: int) -> None:
    begun = {"changed_at": database.now() - timedelta(days=days)}
    database.transact(lambda tx: tx.run(update(jobs).where(jobs.c.id.in_(job_ids)).values(begun)))


def _priorities(database: Database, pilot_id: int) -> list[int]:
    query = select(jobs.c.priority).where(jobs.c.pilot_id == pilot_id).order_by(jobs.c.priority)
    return [row.priority for row in database.read(lambda tx: tx.rows(query))]


def test_a_job_that_waits_for_days_goes_before_higher_priorities_of_its_own_autocluster(database: Database) -> None:
    alice = person(database, "default")
    _waited(database, waiting(database, alice), days=3)
    waiting(database, alice, 8, priority=5)
    pilot_id = offering(database, site(database))
    _offer(database, pilot_id)
    assert _priorities(database, pilot_id) == [0, 5, 5, 5]


def test_every_level_of_an_autocluster_is_looked_at_in_the_end(database: Database) -> None:
    alice = person(database, "default")
    for priority in range(12):
        waiting(database, alice, 2, priority=priority)
    memory = memory_of(database)
    seen: set[int] = set()
    for _ in range(4):
        database.read(memory.read_all)
        database.read(memory.read_lower)
        seen |= {level.priority for level in memory.board.levels()}
        assert all(level.waiting_since is not None for level in memory.board.levels())
    assert seen == set(range(12))


def test_lower_levels_outlast_a_reading_of_heads_and_go_when_they_are_drained(database: Database) -> None:
    alice = person(database, "default")
    waiting(database, alice, 2)
    waiting(database, alice, 2, priority=5)
    at = site(database)
    _offer(database, offering(database, at, cores=1))
    memory = memory_of(database)
    database.read(memory.read_all)
    assert {level.priority for level in memory.board.levels()} == {0, 5}
    _offer(database, *(offering(database, at) for _ in range(2)))
    assert not memory.board.levels()


@pytest.mark.parametrize("priority", [0, 5], ids=["head", "lower"])
def test_how_long_a_level_has_waited_is_said_of_its_present_head(database: Database, priority: int) -> None:
    alice = person(database, "default")
    _waited(database, waiting(database, alice, priority=5 - priority), days=3)
    waiting(database, alice, 8, priority=5 - priority)
    waiting(database, alice, 8, priority=priority)
    _offer(database, offering(database, site(database), cores=1))
    memory = memory_of(database)
    database.read(memory.read_all)
    database.read(memory.read_lower)
    began = {row.id: row.changed_at for row in database.read(lambda tx: tx.rows(select(jobs.c.id, jobs.c.changed_at)))}
    assert memory.board.levels()
    assert all(level.waiting_since == began[level.head_job_id] for level in memory.board.levels())


def test_an_offer_that_is_put_off_has_waited_since_it_was_made(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, now = site(database), database.now()
    context = Context(Settings(), database, "test")
    messages = [
        Message.about(SlotsOffered(pilot_ids=(offering(database, at),)), now=now - timedelta(seconds=age))
        for age in (90, 0)
    ]
    with monkeypatch.context() as patched:
        patched.setattr(shell, "PATIENCE", -1.0)
        outcomes = MATCHING.execute(context, messages)
    again = [follow_up for outcome in outcomes if isinstance(outcome, Done) for follow_up in outcome.follow_ups]
    assert [(one.body, one.created_at) for one in again] == [(one.body, one.created_at) for one in messages]
    assert context.tally.take() == ()
    MATCHING.execute(context, again)
    (latencies,) = context.tally.take()
    old, young = latencies.values
    assert old - young == pytest.approx(90)


def test_heads_are_read_within_half_a_minute_unless_that_is_all_that_would_be_done() -> None:
    assert [fresh_for(cost) for cost in (0.0, 0.5, 2.0, 10.0, 40.0)] == [2.0, 10.0, 30.0, 30.0, 40.0]
