"""Rows that a test starts from: sites with their queue and storage, pilots with a slot, files of the catalogue.

Campaigns and people come from `tests/submitting.py`, by the real submission.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from pipeline.store.access import ensure_vo
from pipeline.store.database import Database, Transaction
from pipeline.store.heartbeats import SERVING, mark_serving
from pipeline.store.tables import (
    bans,
    controls,
    files,
    limits,
    pilots,
    replicas,
    site_queues,
    site_storages,
    sites,
    slots,
    storages,
)
from schemas.sites import SiteQueueEntry
from schemas.states import PilotState

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Site:
    """A declared site with one queue, `local`, and one storage."""

    id: int
    name: str
    queue_id: int
    storage_id: int


def site(
    database: Database, name: str = "LOCAL", *, storage: str = "", running: int | None = None, **queue: Any
) -> Site:
    """A declared site; `running` is its limit of running jobs, `queue` are fields of its SiteQueueEntry."""
    entry = SiteQueueEntry.model_validate({"name": "local", "cores": 4, "memory": 8192, "wall_time": DAY, **queue})

    def work(tx: Transaction) -> Site:
        site_id = tx.add(sites, name=name, declared=True)
        storage_name = storage or f"{name}-disk"
        storage_id = tx.scalar(select(storages.c.id).where(storages.c.name == storage_name)) or tx.add(
            storages, name=storage_name, kind="file", url=f"file:///{storage_name}", declared=True
        )
        tx.add(site_storages, site_id=site_id, storage_id=storage_id, position=0)
        queue_id = tx.add(site_queues, site_id=site_id, name=entry.name, entry=entry.model_dump_json(), declared=True)
        if running is not None:
            tx.add(limits, kind="site", subject_id=site_id, maximum=running, running=0)
        return Site(site_id, name, queue_id, storage_id)

    return database.transact(work)


def pilot(database: Database, at: Site, *, vo: str = "default", **columns: Any) -> int:
    """A running pilot that was seen just now and has a day to live; its id."""

    def work(tx: Transaction) -> int:
        return tx.add(
            pilots,
            **{
                "tag": str(uuid.uuid4()),
                "site_queue_id": at.queue_id,
                "site_id": at.id,
                "vo_id": ensure_vo(tx, vo),
                "state": PilotState.RUNNING,
                "cores": 4,
                "requested_at": tx.now,
                "started_at": tx.now,
                "last_seen": tx.now,
                "ends_at": tx.after(DAY),
                **columns,
            },
        )

    return database.transact(work)


def slot(database: Database, pilot_id: int, *, lifetime: float = DAY, **columns: Any) -> int:
    """What a pilot offers: 4 cores, 8 GiB of memory, 10 GiB of disk, `lifetime` seconds; the pilot's id."""

    def work(tx: Transaction) -> int:
        row = {
            "pilot_id": pilot_id,
            "vo_id": tx.scalar(select(pilots.c.vo_id).where(pilots.c.id == pilot_id)),
            "state": "offered",
            "cores": 4,
            "memory": 8192,
            "disk": 10_240,
            "ends_at": tx.after(lifetime),
            "offered_at": tx.now,
            "wake_at": tx.after(30),
            **columns,
        }
        tx.add(slots, **row)
        return pilot_id

    return database.transact(work)


def offering(database: Database, at: Site, *, vo: str = "default", **columns: Any) -> int:
    """A running pilot with its slot; `columns` are the slot's. The pilot's id."""
    return slot(database, pilot(database, at, vo=vo), **columns)


def serving(database: Database, seconds: float) -> None:
    """The API has served heartbeats for so many seconds."""

    def work(tx: Transaction) -> None:
        mark_serving(tx, 30)
        tx.run(update(controls).where(controls.c.name == SERVING).values(since=tx.after(-seconds)))

    database.transact(work)


def file(database: Database, lfn: str, *stored_at: Site, vo: str = "default", **columns: Any) -> int:
    """A file of the catalogue with a usable replica on each of the sites' storages; its id."""

    def work(tx: Transaction) -> int:
        row = {
            "vo_id": ensure_vo(tx, vo),
            "lfn": lfn,
            "name": lfn.rpartition("/")[2],
            "size": 1,
            "adler32": "00000001",
            "created_at": tx.now,
            **columns,
        }
        file_id = tx.add(files, **row)
        for place in stored_at:
            tx.add(replicas, file_id=file_id, storage_id=place.storage_id, path=lfn.lstrip("/"), state="usable")
        return file_id

    return database.transact(work)


def ban(database: Database, at: Site, *, vo: str | None = None, queue: bool = False, **columns: Any) -> int:
    """A ban in force on a site, or on its queue alone; for one VO or for all. Its id."""

    def work(tx: Transaction) -> int:
        return tx.add(
            bans,
            **{
                "site_id": at.id,
                "site_queue_id": at.queue_id if queue else None,
                "vo_id": None if vo is None else ensure_vo(tx, vo),
                "banned_by": "test",
                "why": "a test",
                "created_at": tx.now,
                **columns,
            },
        )

    return database.transact(work)
