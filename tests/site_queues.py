"""Site queues of a test, and pilots there: requested, as rows, and as processes of the local batch system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import uuid_utils.compat
from sqlalchemy import Row, select

from executors.pilots.port import BatchSystem, QueueSettings, open_batch_system
from pipeline.store import provisioning_orders, sites
from pipeline.store.access import ensure_vo
from pipeline.store.database import Database, Transaction
from pipeline.store.provisioning_rows import Room
from pipeline.store.tables import pilots, site_queues
from schemas.sites import SiteQueueEntry, SitesFile

SLEEPING = {"name": "q", "pilot": "sleeping", "options": {"grace": 1.0}}
"""A queue of the local batch system, with pilots of `tests/outside` that stay."""
FAILING = {"name": "q", "pilot": "failing"}


def declare_queues(database: Database, data_dir: Path, *queues: Mapping[str, Any], **more: Any) -> list[int]:
    """These queues of the site SITE, and what else a sites file says; the ids of the queues."""
    site = {"name": "SITE", "storages": ["disk"], "queues": queues}
    file = SitesFile.model_validate(
        {"storages": [{"name": "disk", "url": "file://${DATA_DIR}/storage"}], "sites": [site], **more}
    )
    database.transact(lambda tx: ensure_vo(tx, "default"))
    database.transact(lambda tx: sites.apply(tx, file, data_dir=data_dir))
    names = [queue["name"] for queue in queues]
    rows = database.read(lambda tx: tx.rows(select(site_queues.c.name, site_queues.c.id)))
    ids = {row.name: row.id for row in rows}
    return [ids[name] for name in names]


def request_pilots(database: Database, queue_ids: Iterable[int], count: int = 1) -> list[str]:
    """So many for each queue, as provisioning does; their tags."""

    def work(tx: Transaction) -> list[str]:
        vo_id = ensure_vo(tx, "default")
        rooms = {
            row.id: Room(row.id, row.site_id, "SITE", vo_id, SiteQueueEntry.model_validate_json(row.entry))
            for row in tx.rows(select(site_queues))
        }
        wanted = [(rooms[queue_id], uuid_utils.compat.uuid7().hex) for queue_id in queue_ids for _ in range(count)]
        provisioning_orders.request_pilots(tx, wanted)
        return [tag for _, tag in wanted]

    return database.transact(work)


def pilot_rows(database: Database) -> Sequence[Row[Any]]:
    """All pilots."""
    return database.read(lambda tx: tx.rows(select(pilots).order_by(pilots.c.id)))


def queue_rows(database: Database) -> Sequence[Row[Any]]:
    """All site queues."""
    return database.read(lambda tx: tx.rows(select(site_queues).order_by(site_queues.c.id)))


def open_local(data_dir: Path, name: str = "q") -> BatchSystem:
    """The local batch system of SITE's queue of that name."""
    entry = SiteQueueEntry.model_validate({**SLEEPING, "name": name})
    return open_batch_system(QueueSettings(f"SITE.{name}", entry, data_dir))


def remove_local(data_dir: Path) -> None:
    """End all pilots of the local queue `q`."""
    folders = (data_dir / "local-batch" / "SITE.q").glob("*")
    open_local(data_dir).remove([folder.name for folder in folders])
