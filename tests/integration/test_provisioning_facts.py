"""What provisioning plans from: free room by what attempts were granted, queues in test mode, shares of VOs."""

from __future__ import annotations

from sqlalchemy import update

from pipeline.store.bans import banned_queues
from pipeline.store.database import Database, Transaction
from pipeline.store.optimisation import read_offers
from pipeline.store.provisioning import situation
from pipeline.store.tables import bans, vos
from schemas.placement import unplaceable
from schemas.requirements import Requirement
from tests import building
from tests.pilot_rows import autocluster, scene, set_job


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
    (pilot,) = database.read(situation).pilots
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
    (room,) = database.read(situation).rooms
    assert (room.open, room.only_job_type) == (True, "test")
    assert database.read(banned_queues) == set()
    offers = database.read(lambda tx: read_offers(tx, [room.vo_id], margin=300))[room.vo_id]
    assert [offer.only_job_type for offer in offers] == ["test"]
    assert unplaceable(Requirement(), offers, "test") is None
    assert unplaceable(Requirement(), offers, "user") is not None


def test_what_is_said_to_everybody_counts_before_a_vos_own_word(database: Database) -> None:
    at = building.site(database)
    building.pilot(database, at)
    (room,) = database.read(situation).rooms
    _test_mode(database, at, vo_id=room.vo_id, job_type="mine")
    assert database.read(situation).rooms[0].only_job_type == "mine"
    _test_mode(database, at, vo_id=None, job_type="test")
    assert database.read(situation).rooms[0].only_job_type == "test"


def test_a_room_has_the_share_of_its_vo(database: Database) -> None:
    at = building.site(database, vos=["default", "other"])
    building.pilot(database, at)
    building.pilot(database, at, vo="other")
    database.transact(lambda tx: tx.run(update(vos).where(vos.c.name == "other").values(share=2.5)))
    assert [room.share for room in database.read(situation).rooms] == [1.0, 2.5]
