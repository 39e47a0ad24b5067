"""Sites as the API shows them to one VO."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, func, select

from pipeline.store.access import vo_name
from pipeline.store.bans import list_bans
from pipeline.store.database import Transaction
from pipeline.store.pilot_caps import VO
from pipeline.store.tables import limits, pilot_caps, pilots, site_queues, site_storages, sites, storages
from schemas.site_views import CapsView, QueueOfSite, SitesView, SiteView, StorageView
from schemas.sites import SiteQueueEntry
from schemas.states import PilotState

Counts = Mapping[int, Mapping[PilotState, int]]


def list_sites(tx: Transaction, vo_id: int) -> SitesView:
    """All sites and storages; pilots are the VO's own, bans those that concern it."""
    queues: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in tx.rows(select(site_queues).order_by(site_queues.c.id)):
        queues[row.site_id].append(row)
    counts = _pilot_counts(tx, vo_id)
    limit_rows = tx.rows(select(limits.c.subject_id, limits.c.maximum).where(limits.c.kind == "site"))
    maxima = {row.subject_id: row.maximum for row in limit_rows}
    of_site = _storages_of(tx)
    shown = [
        SiteView(
            name=row.name,
            declared=row.declared,
            storages=tuple(of_site[row.id]),
            max_running_jobs=maxima.get(row.id),
            queues=tuple(_queue(queue, counts) for queue in queues[row.id]),
        )
        for row in tx.rows(select(sites).order_by(sites.c.name))
    ]
    return SitesView(
        sites=tuple(shown),
        storages=tuple(_storages(tx)),
        bans=tuple(list_bans(tx, vo_id)),
        pilot_caps=tuple(_caps(tx, vo_id)),
    )


def _caps(tx: Transaction, vo_id: int) -> Iterator[CapsView]:
    """Those over several queues; of VOs, the VO's own."""
    mine = vo_name(tx, vo_id)
    for row in tx.rows(select(pilot_caps).order_by(pilot_caps.c.id)):
        if row.kind != VO or row.name == mine:
            yield CapsView(**{**json.loads(row.body), "kind": row.kind, "name": row.name})


def _pilot_counts(tx: Transaction, vo_id: int) -> Counts:
    query = (
        select(pilots.c.site_queue_id, pilots.c.state, func.count().label("many"))
        .where(pilots.c.vo_id == vo_id)
        .group_by(pilots.c.site_queue_id, pilots.c.state)
    )
    counts: defaultdict[int, dict[PilotState, int]] = defaultdict(dict)
    for row in tx.rows(query):
        counts[row.site_queue_id][PilotState(row.state)] = row.many
    return counts


def _storages_of(tx: Transaction) -> Mapping[int, list[str]]:
    query = (
        select(site_storages.c.site_id, storages.c.name)
        .join(storages, storages.c.id == site_storages.c.storage_id)
        .order_by(site_storages.c.position)
    )
    found: defaultdict[int, list[str]] = defaultdict(list)
    for row in tx.rows(query):
        found[row.site_id].append(row.name)
    return found


def _storages(tx: Transaction) -> Sequence[StorageView]:
    query = select(storages.c.name, storages.c.kind, storages.c.url, storages.c.declared)
    return [StorageView.model_validate(row._asdict()) for row in tx.rows(query.order_by(storages.c.name))]


def _queue(row: Row[Any], counts: Counts) -> QueueOfSite:
    entry = SiteQueueEntry.model_validate_json(row.entry)
    shared = entry.model_dump(include=set(QueueOfSite.model_fields) & set(SiteQueueEntry.model_fields))
    return QueueOfSite(
        **shared,
        declared=row.declared,
        pilots=dict(counts.get(row.id, {})),
        backoff_until=row.backoff_until,
        reason=row.reason,
    )
