"""Pilots that have not ended, as plans see them: what is free of each, how long it stands idle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, case, func, select, update

from pipeline.store.autoclusters import requirement_of
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.provisioning_rows import RECENT, LivePilot
from pipeline.store.tables import autoclusters, jobs, pilots, requirements, slots
from schemas import rooms as grants
from schemas.requirements import Requirement
from schemas.sites import SiteQueueEntry
from schemas.states import JOB_OCCUPYING, PILOT_ACTIVE, PILOT_LIVE, PilotState

_NOTHING = grants.Room(0, 0, 0)
_OFFERS_WITHIN = 120.0
"""Seconds after its enrolment within which a pilot that has not asked for jobs yet counts as if all of it were free."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """What the jobs of a pilot take, how many they are, and how many of them began lately."""

    room: grants.Room = _NOTHING
    jobs: int = 0
    recent: int = 0


def live_pilots(tx: Transaction, entries: Mapping[int, SiteQueueEntry]) -> Iterable[LivePilot]:
    """All of them, in the order of their ids. `entries` are what is declared of their site queues.

    `idle_cycles` counts this reading, too: `note_idle` writes it.
    """
    taken = _taken(tx)
    query = (
        select(
            *(pilots.c[name] for name in ("id", "site_queue_id", "vo_id", "state", "batch_id", "idle_cycles")),
            *(pilots.c[name] for name in ("remove_requested", "drain_requested", "requested_at", "started_at")),
            slots.c.cores.label("offered"),
            slots.c.memory,
            slots.c.disk,
            slots.c.gpus,
            slots.c.ends_at.label("until"),
        )
        .outerjoin(slots, slots.c.pilot_id == pilots.c.id)
        .where(pilots.c.state.in_(PILOT_LIVE))
        .order_by(pilots.c.id)
    )
    for row in tx.rows(query):
        yield _pilot(row, taken.get(row.id, _Taken()), entries.get(row.site_queue_id), tx.now)


def note_idle(tx: Transaction, found: Iterable[LivePilot]) -> None:
    """Write down how many cycles each active pilot has been idle for; only rows that change are touched."""
    active = [pilot for pilot in found if pilot.state in PILOT_ACTIVE]
    for chunk in in_chunks([pilot.id for pilot in active if pilot.idle_cycles]):
        mine = pilots.c.id.in_(chunk)
        tx.run(update(pilots).where(mine).values(idle_cycles=pilots.c.idle_cycles + 1))
    for chunk in in_chunks([pilot.id for pilot in active if pilot.jobs]):
        busy = (pilots.c.id.in_(chunk), pilots.c.idle_cycles > 0)
        tx.run(update(pilots).where(*busy).values(idle_cycles=0))


def _pilot(row: Row[Any], taken: _Taken, entry: SiteQueueEntry | None, now: datetime) -> LivePilot:
    state = PilotState(row.state)
    is_active = state in PILOT_ACTIVE
    up = _seconds(row.started_at, now) if is_active else 0.0
    free, lasts = _NOTHING, 0.0
    if is_active and row.offered is not None:
        used = taken.room
        free = grants.Room(
            row.offered - used.cores, row.memory - used.memory, row.disk - used.disk, row.gpus - used.gpus
        )
        lasts = (row.until - now).total_seconds()
    elif is_active and entry is not None and up < _OFFERS_WITHIN:
        gpus = 0 if entry.gpu is None else entry.gpu.count
        free, lasts = grants.Room(entry.cores, entry.memory, entry.disk, gpus), entry.lifetime(0.0)
    is_idle = is_active and not taken.jobs
    return LivePilot(
        id=row.id,
        site_queue_id=row.site_queue_id,
        vo_id=row.vo_id,
        state=state,
        leaves=row.remove_requested or row.drain_requested or state in {PilotState.LOST, PilotState.DRAINING},
        age=_seconds(row.requested_at, now),
        batch_id=row.batch_id,
        cores=free.cores,
        memory=free.memory,
        disk=free.disk,
        gpus=free.gpus,
        lasts=lasts,
        jobs=taken.jobs,
        recent_jobs=taken.recent,
        up=up,
        idle_cycles=row.idle_cycles + 1 if is_idle else 0,
    )


def _seconds(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max((now - since).total_seconds(), 0.0)


def _taken(tx: Transaction) -> Mapping[int, _Taken]:
    """What the jobs of each pilot take; those that release 0.2.0 assigned, what their templates ask for."""
    columns = (jobs.c.cores, jobs.c.memory, jobs.c.disk, jobs.c.gpus)
    query = (
        select(
            jobs.c.pilot_id,
            autoclusters.c.requirement_id,
            func.count().label("many"),
            func.count(jobs.c.cores).label("granted"),
            func.sum(case((jobs.c.matched_at > tx.after(-RECENT), 1), else_=0)).label("recent"),
            *(func.coalesce(func.sum(column), 0).label(column.name) for column in columns),
        )
        .join_from(pilots, jobs, jobs.c.pilot_id == pilots.c.id)
        .join(autoclusters, autoclusters.c.id == jobs.c.autocluster_id)
        .where(pilots.c.state.in_(PILOT_ACTIVE), jobs.c.state.in_(JOB_OCCUPYING))
        .group_by(jobs.c.pilot_id, autoclusters.c.requirement_id)
    )
    rows = tx.rows(query)
    known = _requirements(tx, [row.requirement_id for row in rows if row.granted < row.many])
    taken: dict[int, _Taken] = {}
    for row in rows:
        so_far, more = taken.get(row.pilot_id, _Taken()), row.many - row.granted
        template = known[row.requirement_id].specifications()[0].least if more else _NOTHING
        used = so_far.room
        room = grants.Room(
            used.cores + int(row.cores) + more * template.cores,
            used.memory + int(row.memory) + more * template.memory,
            used.disk + int(row.disk) + more * template.disk,
            used.gpus + int(row.gpus) + more * template.gpus,
        )
        taken[row.pilot_id] = _Taken(room, so_far.jobs + row.many, so_far.recent + int(row.recent))
    return taken


def _requirements(tx: Transaction, ids: Sequence[int]) -> Mapping[int, Requirement]:
    query = select(requirements.c.id, requirements.c.body).where(requirements.c.id.in_(set(ids)))
    return {row.id: requirement_of(row.body) for row in tx.rows(query)} if ids else {}
