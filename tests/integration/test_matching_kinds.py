"""Kinds of nodes: what is remembered of one serves all that are about as large, and is exact for each."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from consumers.matching import SPEC as MATCHING
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store.database import Database, Transaction
from pipeline.store.matching import Alive, Kinds, lock_slots, places
from pipeline.store.tables import jobs
from schemas.messages import Message, SlotsOffered
from schemas.rooms import Room
from tests.backlog import person, waiting
from tests.building import offering, site


def _keys(tx: Transaction, pilot_ids: list[int]) -> dict[int, tuple[int, int]]:
    """The number of each pilot's kind, and its disk."""
    found = places(tx, lock_slots(tx, pilot_ids, "offered"), Kinds(), Alive(90, 3))
    return {pilot_id: (place.resource_key, place.resource.disk) for pilot_id, place in found.items()}


def test_nodes_that_differ_by_some_megabytes_are_of_one_kind_and_keep_their_size(database: Database) -> None:
    at = site(database)
    disks = {offering(database, at, disk=disk): disk for disk in range(10_241, 10_281)}
    found = database.transact(partial(_keys, pilot_ids=list(disks)))
    assert {pilot_id: disk for pilot_id, (_, disk) in found.items()} == disks
    assert len({key for key, _ in found.values()}) == 1


def test_nodes_of_one_kind_get_only_what_each_has_room_for(database: Database) -> None:
    at = site(database)
    waiting(database, person(database, "default"), requirements={"disk": 10_250})
    small, large = offering(database, at, disk=10_245), offering(database, at, disk=10_255)
    message = Message.about(SlotsOffered(pilot_ids=(small, large)), now=database.now())
    MATCHING.execute(Context(Settings(), database, "test"), [message])
    assert [row.pilot_id for row in database.read(lambda tx: tx.rows(select(jobs.c.pilot_id)))] == [large]


@given(
    st.builds(Room, st.integers(0, 256), st.integers(0, 2**31), st.integers(0, 2**31), st.integers(0, 16)),
)
def test_a_coarse_room_is_at_least_as_large_and_a_quarter_larger_at_most(room: Room) -> None:
    coarse = room.coarse()
    assert (coarse.cores, coarse.gpus) == (room.cores, room.gpus)
    for exact, rounded in ((room.memory, coarse.memory), (room.disk, coarse.disk)):
        assert exact <= rounded <= exact * 1.25
    assert coarse.coarse() == coarse
