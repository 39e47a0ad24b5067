"""Site queues of a test, and pilots that are requested there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import uuid_utils.compat
from sqlalchemy import Row, select

from pipeline.store import sites
from pipeline.store.access import ensure_vo
from pipeline.store.database import Database, Transaction
from pipeline.store.tables import pilots, site_queues, vos
from schemas.sites import SitesFile
from schemas.states import PilotState


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
        of_queue = {row.id: row.site_id for row in tx.rows(select(site_queues.c.id, site_queues.c.site_id))}
        vo_id = tx.scalar(select(vos.c.id).where(vos.c.name == "default"))
        common = {"vo_id": vo_id, "state": PilotState.REQUESTED, "cores": 1, "requested_at": tx.now}
        new = [
            {"tag": uuid_utils.compat.uuid7().hex, "site_queue_id": queue_id, "site_id": of_queue[queue_id], **common}
            for queue_id in queue_ids
            for _ in range(count)
        ]
        tx.add_all(pilots, new)
        return [str(row["tag"]) for row in new]

    return database.transact(work)


def pilot_rows(database: Database) -> Sequence[Row[Any]]:
    """All pilots."""
    return database.read(lambda tx: tx.rows(select(pilots).order_by(pilots.c.id)))


def queue_rows(database: Database) -> Sequence[Row[Any]]:
    """All site queues."""
    return database.read(lambda tx: tx.rows(select(site_queues).order_by(site_queues.c.id)))
