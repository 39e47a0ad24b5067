"""What provisioning plans from: free room by what attempts were granted, queues in test mode, shares of VOs."""

from __future__ import annotations

import json

from sqlalchemy import update

from pipeline.store.bans import banned_queues
from pipeline.store.database import Database, Transaction
from pipeline.store.nodes import TRY_AGAIN, rest
from pipeline.store.optimisation import read_offers
from pipeline.store.provisioning import situation
from pipeline.store.provisioning_rows import DemandReading, Situation
from pipeline.store.tables import bans, nodes, pilots, vos, waiting_jobs
from pipeline.store.waiting_demand import demand
from schemas.placement import unplaceable
from schemas.requirements import Requirement
from schemas.states import PilotState
from tests import building
from tests.pilot_rows import autocluster, scene, set_job


def _situation(database: Database) -> Situation:
    return database.read(lambda tx: situation(tx, DemandReading(tuple(demand(tx)), is_sure=True)))


def test_what_attempts_were_granted_is_not_free_and_old_ones_take_what_their_template_asks_for(
    database: Database,
) -> None:
    at = scene(database, 3)
    building.slot(database, at.pilot_id, cores=16, gpus=2)
    first, second, third = at.jobs()
    wide = {"cores": {"min": 3, "max": 8}, "memory": {"overhead": 100, "per_core": 200}, "gpu": {}}
    elastic = autocluster(database, first, **wide)
    set_job(database, first.id, autocluster_id=elastic, cores=6, memory=1300, disk=500, gpus=1, alternative=0)
    set_job(database, second.id, autocluster_id=elastic, cores=None, memory=None, disk=None, gpus=None)
    set_job(database, third.id, cores=None, memory=None, disk=None, gpus=None)
    (pilot,) = _situation(database).pilots
    assert (pilot.cores, pilot.gpus) == (16 - 6 - 3 - 1, 2 - 1 - 1)
    assert (pilot.memory, pilot.disk) == (8192 - 1300 - 700 - 1024, 10_240 - 500 - 1024 - 1024)


def _test_mode(database: Database, at: building.Site, *, vo_id: int | None, job_type: str) -> None:
    def work(tx: Transaction) -> None:
        tx.add(
            bans,
            site_id=at.id,
            vo_id=vo_id,
            banned_by="me",
            why="new",
            created_at=tx.now,
            only_job_type=job_type,
        )

    database.transact(work)


def test_a_queue_in_test_mode_is_open_for_one_type_of_jobs_alone(database: Database) -> None:
    at = building.site(database)
    building.pilot(database, at)
    _test_mode(database, at, vo_id=None, job_type="test")
    (room,) = _situation(database).rooms
    assert (room.closed, room.only_job_type) == ("", "test")
    assert database.read(banned_queues) == set()
    offers = database.read(lambda tx: read_offers(tx, [room.vo_id], margin=300))[room.vo_id]
    assert [offer.only_job_type for offer in offers] == ["test"]
    assert unplaceable(Requirement(), offers, "test") is None
    assert unplaceable(Requirement(), offers, "user") is not None


def test_what_is_said_to_everybody_counts_before_a_vos_own_word(database: Database) -> None:
    at = building.site(database)
    building.pilot(database, at)
    (room,) = _situation(database).rooms
    _test_mode(database, at, vo_id=room.vo_id, job_type="mine")
    assert _situation(database).rooms[0].only_job_type == "mine"
    _test_mode(database, at, vo_id=None, job_type="test")
    assert _situation(database).rooms[0].only_job_type == "test"


def test_a_room_has_the_share_of_its_vo(database: Database) -> None:
    at = building.site(database, vos=["default", "other"])
    building.pilot(database, at)
    building.pilot(database, at, vo="other")
    database.transact(lambda tx: tx.run(update(vos).where(vos.c.name == "other").values(share=2.5)))
    assert [room.share for room in _situation(database).rooms] == [1.0, 2.5]


def test_where_only_resting_nodes_took_pilots_none_are_asked_for_until_it_is_tried_again(database: Database) -> None:
    at, beside = building.site(database), building.site(database, "BESIDE")
    sent_away = _ended_on_a_resting_node(database, at)
    building.pilot(database, beside, node=json.dumps({"host": "node1"}), state=PilotState.DONE, drain_requested=True)
    assert _open(database) == {"LOCAL": False, "BESIDE": True}
    good = building.pilot(database, at, node=json.dumps({"host": "node2"}))
    assert _open(database)["LOCAL"]
    _set(database, good, drain_requested=True)
    assert not _open(database)["LOCAL"]
    database.transact(lambda tx: _age(tx, sent_away, TRY_AGAIN + 1))
    assert _open(database)["LOCAL"]


def test_where_no_node_rests_any_more_pilots_are_asked_for_at_once(database: Database) -> None:
    at = building.site(database)
    _ended_on_a_resting_node(database, at)
    assert _open(database) == {"LOCAL": False}
    database.transact(lambda tx: tx.run(update(nodes).values(bad_until=tx.now)))
    assert _open(database) == {"LOCAL": True}


def _ended_on_a_resting_node(database: Database, at: building.Site) -> int:
    pilot_id = building.pilot(database, at, node=json.dumps({"host": "node1"}))
    database.transact(lambda tx: rest(tx, pilot_id, 5, 3600))
    _set(database, pilot_id, state=PilotState.DONE)
    return pilot_id


def _set(database: Database, pilot_id: int, **columns: object) -> None:
    database.transact(lambda tx: tx.run(update(pilots).where(pilots.c.id == pilot_id).values(**columns)))


def _age(tx: Transaction, pilot_id: int, seconds: float) -> None:
    tx.run(update(pilots).where(pilots.c.id == pilot_id).values(last_seen=tx.after(-seconds)))


def _open(database: Database) -> dict[str, bool]:
    return {room.site: not room.closed for room in _situation(database).rooms}


def test_limits_and_whom_waiting_jobs_are_charged_to_are_read(database: Database) -> None:
    where = scene(database, 1, job_type="merge", requirements={"labels": ["disk"]})
    job = where.jobs()[0]
    cluster = autocluster(database, job, labels=["disk"])
    database.transact(lambda tx: tx.add(waiting_jobs, autocluster_id=cluster, descent=0, job_id=job.id))
    now = _situation(database)
    (wanted,) = now.reading.demand
    assert wanted.owner is not None
    assert (wanted.owner.vo_id, wanted.owner.labels) == (wanted.vo_id, ("disk",))
    assert [(limit.selector.site_id, limit.maximum) for limit in now.limits] == [(where.site.id, 10)]
