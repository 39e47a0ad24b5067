"""Pilots as their VO sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, or_, select, update

from pipeline.errors import NotFound
from pipeline.pilot_because import PilotFacts, reasons
from pipeline.store.database import Transaction
from pipeline.store.nodes import host_of
from pipeline.store.queue_backoff import left_alone
from pipeline.store.tables import jobs, pilots, site_queues, sites, steps
from schemas.pilot_views import JobAtHand, PilotDetail, PilotQuery, PilotView
from schemas.sites import SiteQueueEntry
from schemas.states import JOB_OCCUPYING, JOB_ON_PILOT, PILOT_ACTIVE, JobState, PilotState

_SHOWN = (
    pilots.c.id,
    pilots.c.state,
    pilots.c.batch_id,
    pilots.c.cores,
    pilots.c.remove_requested,
    pilots.c.requested_at,
    pilots.c.started_at,
    pilots.c.last_seen,
    pilots.c.ends_at,
    pilots.c.ended_at,
    pilots.c.reason,
    pilots.c.releases,
    pilots.c.node,
    pilots.c.failures_in_row,
)
_COPIED = tuple(column.name for column in _SHOWN if column.name in PilotView.model_fields)
_ALSO_COPIED = ("tag", "submitted_at", "held_at", "proxy_ends_at", "idle_cycles", "output_wanted_at", "output_at")


def list_pilots(tx: Transaction, vo_id: int, wanted: PilotQuery, *, most: int, max_failures: int) -> list[PilotView]:
    """Up to `most` pilots of a VO, the newest first; those below `wanted.after` where it is not 0.

    `max_failures`: jobs failed in a row after which a pilot takes no more.
    """
    ids = _page(tx, vo_id, wanted, most)
    query = _query(*_SHOWN, max_failures=max_failures).where(pilots.c.id.in_(ids))
    rows = tx.rows(query.order_by(pilots.c.id.desc())) if ids else ()
    held = _jobs_held(tx, ids)
    return [PilotView(**_view(row, held.get(row.id, 0))) for row in rows]


def _page(tx: Transaction, vo_id: int, wanted: PilotQuery, most: int) -> list[int]:
    """Their ids, asked for alone: a join would let MariaDB begin with a site, and sort all of its pilots."""
    query = select(pilots.c.id).where(pilots.c.vo_id == vo_id)
    if wanted.after:
        query = query.where(pilots.c.id < wanted.after)
    if wanted.state:
        query = query.where(pilots.c.state.in_(wanted.state))
    if wanted.site is not None or wanted.queue is not None:
        query = query.where(pilots.c.site_queue_id.in_(queues_of(tx, wanted.site, wanted.queue)))
    return [row.id for row in tx.rows(query.order_by(pilots.c.id.desc()).limit(most))]


def queues_of(tx: Transaction, site: str | None, queue: str | None) -> list[int]:
    """The ids of the site queues of these names; None does not narrow."""
    query = select(site_queues.c.id).join(sites, sites.c.id == site_queues.c.site_id).order_by(site_queues.c.id)
    if site is not None:
        query = query.where(sites.c.name == site)
    if queue is not None:
        query = query.where(site_queues.c.name == queue)
    return [row.id for row in tx.rows(query)]


def show_pilot(tx: Transaction, vo_id: int, pilot_id: int, *, max_failures: int) -> PilotDetail:
    """All that is known of a pilot. Raises NotFound for one that is not the VO's."""
    around = (site_queues.c.entry, site_queues.c.declared, site_queues.c.backoff_until, site_queues.c.dead_letter_id)
    query = _query(pilots, *around, site_queues.c.reason.label("queue_reason"), max_failures=max_failures)
    row = tx.first(query.where(pilots.c.id == pilot_id, pilots.c.vo_id == vo_id))
    if row is None:
        raise _not_found(pilot_id)
    at_hand = _at_hand(tx, pilot_id)
    occupying = len([job for job in at_hand if job.state in JOB_OCCUPYING])
    node = json.loads(row.node) if row.node else None
    return PilotDetail(
        **_view(row, occupying),
        **{name: getattr(row, name) for name in _ALSO_COPIED},
        batch_system=SiteQueueEntry.model_validate_json(row.entry).batch_system,
        version=node.pop("version", None) if node else None,
        node=node,
        jobs_at_hand=tuple(at_hand),
        because=tuple(reasons(_facts(row, occupying, max_failures, tx.now))),
    )


@dataclass(frozen=True, slots=True)
class OutputTimes:
    """Since when a pilot's output is to be fetched, when it was fetched last, and by which queue's round."""

    output_wanted_at: datetime | None
    output_at: datetime | None
    site_queue_id: int


def output_times(tx: Transaction, vo_id: int, pilot_id: int) -> OutputTimes:
    """How it stands with the output of a pilot. Raises NotFound for one that is not the VO's."""
    query = select(*(pilots.c[name] for name in OutputTimes.__slots__))
    row = tx.first(query.where(pilots.c.id == pilot_id, pilots.c.vo_id == vo_id))
    if row is None:
        raise _not_found(pilot_id)
    return OutputTimes(**row._asdict())


def want_output(tx: Transaction, vo_id: int, pilot_id: int) -> OutputTimes:
    """Note that a pilot's output is to be fetched, unless that was noted. Raises NotFound."""
    mine = (pilots.c.id == pilot_id, pilots.c.vo_id == vo_id, pilots.c.output_wanted_at.is_(None))
    tx.run(update(pilots).where(*mine).values(output_wanted_at=tx.now))
    return output_times(tx, vo_id, pilot_id)


def _not_found(pilot_id: int) -> NotFound:
    return NotFound(f"your VO has no pilot {pilot_id}; `penstock pilots list` shows those that it has")


def _query(*columns: Any, max_failures: int) -> Select[Any]:
    leaves = or_(
        pilots.c.state == PilotState.DRAINING,
        pilots.c.drain_requested,
        pilots.c.remove_requested,
        ~site_queues.c.declared,
        pilots.c.failures_in_row >= max_failures,
    )
    return (
        select(*columns, leaves.label("leaves"), sites.c.name.label("site"), site_queues.c.name.label("queue"))
        .join(sites, sites.c.id == pilots.c.site_id)
        .join(site_queues, site_queues.c.id == pilots.c.site_queue_id)
    )


def _view(row: Row[Any], jobs_held: int) -> dict[str, Any]:
    """The fields of a PilotView."""
    return {
        **{name: getattr(row, name) for name in _COPIED},
        "site": row.site,
        "queue": row.queue,
        "state": PilotState(row.state),
        "host": host_of(row.node),
        "jobs": jobs_held,
        "draining": bool(row.leaves) and row.state in PILOT_ACTIVE,
        "removing": bool(row.remove_requested) and row.ended_at is None,
    }


def _facts(row: Row[Any], occupying: int, max_failures: int, now: datetime) -> PilotFacts:
    backoff_until, backoff_reason = left_alone(row.backoff_until, row.queue_reason, now) or (None, None)
    return PilotFacts(
        state=PilotState(row.state),
        reason=row.reason,
        jobs=occupying,
        releases=row.releases,
        failures_in_row=row.failures_in_row,
        max_failures=max_failures,
        remove_requested=row.remove_requested,
        drain_requested=row.drain_requested,
        submitted_at=row.submitted_at,
        held_at=row.held_at,
        last_seen=row.last_seen,
        queue=f"{row.site}/{row.queue}",
        queue_declared=row.declared,
        backoff_until=backoff_until,
        backoff_reason=backoff_reason,
        dead_letter_id=row.dead_letter_id,
    )


def _at_hand(tx: Transaction, pilot_id: int) -> list[JobAtHand]:
    columns = (jobs.c.id, jobs.c.campaign_id, jobs.c.state, jobs.c.attempt, jobs.c.cores, jobs.c.changed_at)
    query = (
        select(*columns, steps.c.name.label("step"))
        .join(steps, steps.c.id == jobs.c.step_id)
        .where(jobs.c.pilot_id == pilot_id, jobs.c.state.in_(sorted(JOB_ON_PILOT)))
        .order_by(jobs.c.id)
    )
    return [
        JobAtHand(
            id=row.id,
            campaign_id=row.campaign_id,
            step=row.step,
            state=JobState(row.state),
            attempt=row.attempt,
            cores=row.cores,
            since=row.changed_at,
        )
        for row in tx.rows(query)
    ]


def _jobs_held(tx: Transaction, pilot_ids: Sequence[int]) -> Mapping[int, int]:
    query = (
        select(jobs.c.pilot_id, func.count().label("held"))
        .where(jobs.c.pilot_id.in_(pilot_ids), jobs.c.state.in_(sorted(JOB_OCCUPYING)))
        .group_by(jobs.c.pilot_id)
    )
    return {row.pilot_id: row.held for row in tx.rows(query)} if pilot_ids else {}
