"""Where pilots run, for whoever tells of them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sqlalchemy import select

from pipeline.job_story import Place
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.nodes import host_of
from pipeline.store.tables import pilots, site_queues, sites


def places_of(tx: Transaction, pilot_ids: AbstractSet[int]) -> dict[int, Place]:
    """The places of those of these pilots that are still known."""
    query = (
        select(pilots.c.id, pilots.c.node, pilots.c.reason, sites.c.name.label("site"), site_queues.c.name)
        .join(site_queues, site_queues.c.id == pilots.c.site_queue_id)
        .join(sites, sites.c.id == pilots.c.site_id)
    )
    return {
        row.id: Place(row.site, row.name, host_of(row.node), row.reason)
        for chunk in in_chunks(sorted(pilot_ids))
        for row in tx.rows(query.where(pilots.c.id.in_(chunk)))
    }
