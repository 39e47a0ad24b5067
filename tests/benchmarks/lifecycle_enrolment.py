"""Pilots that the batch systems are about to start, as the factory leaves them, for simulated ones to enrol as."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import select

from pipeline.store import access
from pipeline.store.database import Transaction
from pipeline.store.pilots import new_secret
from pipeline.store.tables import pilots, site_queues
from schemas.states import PilotState
from tests.benchmarks.lifecycle_pilots import Plan


def submitted(tx: Transaction, ports: Sequence[int], *, many: int, cores: int, queue: str = "grid") -> Plan:
    """So many rows in each site queue of this name, with a secret for each queue; the APIs listen on `ports`."""
    vo_id = access.ensure_vo(tx, "default")
    wanted = select(site_queues.c.id, site_queues.c.site_id).where(site_queues.c.name == queue)
    tags: list[tuple[str, str]] = []
    for row in tx.rows(wanted.order_by(site_queues.c.id)):
        secret = new_secret(tx, row.id, vo_id, uses=many, valid_for=3_600.0)
        mine = [str(uuid.uuid4()) for _ in range(many)]
        common = {"site_queue_id": row.id, "site_id": row.site_id, "vo_id": vo_id, "cores": cores}
        at = {"requested_at": tx.now, "submitted_at": tx.now}
        tx.add_all(pilots, [{"tag": tag, "state": PilotState.SUBMITTED, **common, **at} for tag in mine])
        tags += [(tag, secret) for tag in mine]
    return Plan([("127.0.0.1", port) for port in ports], tags, cores)
