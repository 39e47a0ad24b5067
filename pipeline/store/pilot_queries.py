"""Pilots as their VO sees them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, or_, select

from pipeline.store.database import Transaction
from pipeline.store.nodes import host_of
from pipeline.store.tables import jobs, pilots, site_queues, sites
from schemas.pilot_views import PilotQuery, PilotView
from schemas.states import JOB_OCCUPYING, PILOT_ACTIVE, PilotState

_SHOWN = (
    pilots.c.id,
    pilots.c.state,
    pilots.c.batch_id,
    pilots.c.cores,
    pilots.c.requested_at,
    pilots.c.started_at,
    pilots.c.last_seen,
    pilots.c.ends_at,
    pilots.c.ended_at,
    pilots.c.reason,
    pilots.c.node,
    pilots.c.failures_in_row,
)


def list_pilots(tx: Transaction, vo_id: int, wanted: PilotQuery, *, most: int, max_failures: int) -> list[PilotView]:
    """Up to `most` pilots of a VO, the newest first; those below `wanted.after` where it is not 0.

    `max_failures`: jobs failed in a row after which a pilot takes no more.
    """
    leaves = or_(
        pilots.c.state == PilotState.DRAINING,
        pilots.c.drain_requested,
        pilots.c.remove_requested,
        ~site_queues.c.declared,
        pilots.c.failures_in_row >= max_failures,
    )
    query = (
        select(*_SHOWN, leaves.label("leaves"), sites.c.name.label("site"), site_queues.c.name.label("queue"))
        .join(sites, sites.c.id == pilots.c.site_id)
        .join(site_queues, site_queues.c.id == pilots.c.site_queue_id)
        .where(pilots.c.vo_id == vo_id)
    )
    if wanted.after:
        query = query.where(pilots.c.id < wanted.after)
    if wanted.state:
        query = query.where(pilots.c.state.in_(wanted.state))
    if wanted.site is not None:
        query = query.where(sites.c.name == wanted.site)
    if wanted.queue is not None:
        query = query.where(site_queues.c.name == wanted.queue)
    rows = tx.rows(query.order_by(pilots.c.id.desc()).limit(most))
    held = _jobs_held(tx, [row.id for row in rows])
    return [
        PilotView(
            id=row.id,
            site=row.site,
            queue=row.queue,
            state=PilotState(row.state),
            batch_id=row.batch_id,
            host=host_of(row.node),
            cores=row.cores,
            jobs=held.get(row.id, 0),
            failures_in_row=row.failures_in_row,
            draining=bool(row.leaves) and row.state in PILOT_ACTIVE,
            requested_at=row.requested_at,
            started_at=row.started_at,
            last_seen=row.last_seen,
            ends_at=row.ends_at,
            ended_at=row.ended_at,
            reason=row.reason,
        )
        for row in rows
    ]


def _jobs_held(tx: Transaction, pilot_ids: Sequence[int]) -> dict[int, int]:
    query = (
        select(jobs.c.pilot_id, func.count().label("held"))
        .where(jobs.c.pilot_id.in_(pilot_ids), jobs.c.state.in_(sorted(JOB_OCCUPYING)))
        .group_by(jobs.c.pilot_id)
    )
    return {row.pilot_id: row.held for row in tx.rows(query)} if pilot_ids else {}
