"""Nodes are kept for wide jobs that wait too long: no more of them than allowed, and until those jobs came."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from sqlalchemy import select, update

from consumers.matching import SPEC as MATCHING
from executors.matching.memory import memory_of
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.tables import jobs, slots
from schemas.messages import Message, SlotsOffered
from tests.backlog import person, waiting
from tests.building import Site, offering, site


def _offer(database: Database, *pilot_ids: int, reserve: float = 0.1) -> None:
    message = Message.about(SlotsOffered(pilot_ids=pilot_ids), now=database.now())
    MATCHING.execute(Context(Settings(wide_reserve=reserve), database, "test"), [message])


def _half_full(database: Database, at: Site, many: int) -> list[int]:
    """Pilots of four cores that offer what narrow jobs leave free."""
    waiting(database, person(database, "default"), 2 * many)
    pilot_ids = [offering(database, at, cores=2) for _ in range(many)]
    _offer(database, *pilot_ids)
    for pilot_id in pilot_ids:
        _offered_again(database, pilot_id, cores=4)
    return pilot_ids


def _offered_again(database: Database, pilot_id: int, **columns: int) -> None:
    row = {"state": "offered", "memory": 99_999, "disk": 99_999, **columns}
    database.transact(lambda tx: tx.run(update(slots).where(slots.c.pilot_id == pilot_id).values(row)))


def _wide(database: Database, many: int, **step: object) -> None:
    """Jobs of four cores that wait for two hours."""
    ids = waiting(database, person(database, "default", "bob"), many, requirements={"cores": 4, **step})
    begun = {"changed_at": database.now() - timedelta(hours=2)}
    database.transact(lambda tx: tx.run(update(jobs).where(jobs.c.id.in_(ids)).values(begun)))
    database.read(memory_of(database).read_all)


def _kept(database: Database) -> dict[int, int]:
    """Autoclusters by the pilots kept for them."""
    query = select(slots.c.pilot_id, slots.c.reserved_for).where(slots.c.reserved_for.is_not(None))
    return {row.pilot_id: row.reserved_for for row in database.read(lambda tx: tx.rows(query))}


def _matched(database: Database) -> int:
    return len(database.read(lambda tx: list(tx.rows(select(jobs.c.id).where(jobs.c.pilot_id.is_not(None))))))


def test_slots_that_offer_one_after_the_other_are_not_all_kept(database: Database) -> None:
    pilot_ids = _half_full(database, site(database), 6)
    _wide(database, 9)
    waiting(database, person(database, "default"), 99)
    for pilot_id in pilot_ids:
        _offer(database, pilot_id)
    assert len(_kept(database)) == 1
    assert _matched(database) == 12 + 5 * 2


def test_no_more_nodes_are_kept_than_a_level_has_jobs(database: Database) -> None:
    pilot_ids = _half_full(database, site(database), 6)
    _wide(database, 1)
    waiting(database, person(database, "default"), 99)
    _offer(database, *pilot_ids[:4], reserve=1.0)
    _offer(database, *pilot_ids[4:], reserve=1.0)
    assert len(_kept(database)) == 1
    assert _matched(database) == 12 + 5 * 2


def test_a_level_leaves_half_of_what_may_be_kept_to_others(database: Database) -> None:
    pilot_ids = _half_full(database, site(database), 8)
    _wide(database, 9)
    _offer(database, *pilot_ids[:6], reserve=0.5)
    assert list(Counter(_kept(database).values()).values()) == [2]
    _wide(database, 9, wall_time=1_000)
    _offer(database, *pilot_ids[6:], reserve=0.5)
    assert list(Counter(_kept(database).values()).values()) == [2, 2]


def test_a_planning_anew_keeps_what_the_one_before_kept(database: Database) -> None:
    """Fewer narrow jobs are to be had than were planned with, and after them the second slot has less room."""
    at = site(database)
    first, second = _half_full(database, at, 2)
    waiting(database, person(database, "default"), 2)
    _offered_again(database, second, cores=5)
    _wide(database, 9)
    _offer(database, first, second)
    assert len(_kept(database)) == 1
    assert _matched(database) == 6


def test_a_place_is_kept_though_this_process_forgot_for_whom(database: Database) -> None:
    (pilot_id,) = _half_full(database, site(database), 1)
    _wide(database, 2)
    _offer(database, pilot_id)
    (autocluster_id,) = _kept(database).values()
    waiting(database, person(database, "default"), 2)
    memory_of(database).board.drop(autocluster_id)
    _offered_again(database, pilot_id)
    _offer(database, pilot_id)
    assert _kept(database) == {pilot_id: autocluster_id}
    assert _matched(database) == 2
