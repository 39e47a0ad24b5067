"""What pilots are planned from, and how a site queue's pilots follow its batch system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import uuid_utils.compat
from sqlalchemy import func, select, union_all, update

from pipeline.store import limits
from pipeline.store.autoclusters import Owner, requirement_of
from pipeline.store.bans import banned_queues, tested_queues
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.match_rows import LimitRow
from pipeline.store.nodes import resting_queues
from pipeline.store.tables import (
    autoclusters,
    controls,
    jobs,
    pilots,
    requirements,
    site_queues,
    sites,
    slots,
    vos,
    waiting_jobs,
)
from schemas import rooms as grants
from schemas.requirements import Requirement
from schemas.sites import SiteQueueEntry
from schemas.states import JOB_OCCUPYING, PILOT_ACTIVE, PILOT_FINAL, PILOT_PENDING, PilotState

CYCLE = "provisioning_cycle"
IDLE = "provisioning_idle"
MOST_WAITING = 10_000
"""Waiting jobs counted of one autocluster at the most."""
_COUNTS_AT_ONCE = 50
NOTHING = grants.Room(0, 0, 0)
_LIVE = tuple(state for state in PilotState if state not in PILOT_FINAL)


@dataclass(frozen=True, slots=True)
class Demand:
    """Waiting jobs of one VO and type with one requirement."""

    vo_id: int
    requirement: Requirement
    jobs: int
    job_type: str = "user"
    owner: Owner | None = None
    """Whom limits see; None: nobody in particular."""


@dataclass(frozen=True, slots=True)
class Room:
    """One declared site queue for one of its VOs. `open` is False for one that is banned, backed off, or has
    but resting nodes to give."""

    site_queue_id: int
    site_id: int
    site: str
    vo_id: int
    entry: SiteQueueEntry
    open: bool
    only_job_type: str | None = None
    """In test mode, the one type of jobs that it takes."""
    share: float = 1.0
    """The VO's weight where several want the queue's pilots."""


@dataclass(frozen=True, slots=True)
class LivePilot:
    """A pilot that has not ended. For an active one, what of its offer no job takes; `lasts` is seconds."""

    id: int
    site_queue_id: int
    vo_id: int
    state: PilotState
    leaves: bool
    """It drains, is to be removed, or is lost: nothing new may be counted on."""
    cores: int = 0
    memory: int = 0
    disk: int = 0
    lasts: float = 0.0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan is made from."""

    demand: tuple[Demand, ...]
    rooms: tuple[Room, ...]
    pilots: tuple[LivePilot, ...]
    idle: frozenset[tuple[int, int]]
    """(site queue, VO) that had no demand in the cycle before."""
    limits: tuple[LimitRow, ...] = ()
    """Of running jobs: those of the sites, and of the VOs that want something."""


def begin_cycle(tx: Transaction, cycle: int) -> bool:
    """Claim a cycle: True for the first caller alone."""
    tx.add_missing(controls, [{"name": CYCLE, "value": 0, "since": tx.now, "at": tx.now}])
    newer = (controls.c.name == CYCLE, controls.c.value < cycle)
    return tx.run(update(controls).where(*newer).values(value=cycle, at=tx.now)) == 1


def present_cycle(tx: Transaction) -> int:
    """The cycle that was planned last."""
    return int(tx.scalar(select(controls.c.value).where(controls.c.name == CYCLE)) or 0)


def situation(tx: Transaction) -> Situation:
    """Read it; raises what the database raises, so that a failed query of the demand is never an empty one."""
    demand, rooms = tuple(_demand(tx)), tuple(_rooms(tx))
    known = limits.of(tx, {one.vo_id for one in demand}, {room.site_id for room in rooms})
    return Situation(demand, rooms, tuple(_live(tx)), _idle(tx), tuple(known))


def keep_idle(tx: Transaction, idle: Iterable[tuple[int, int]]) -> None:
    """Remember who had no demand, for the next cycle."""
    tx.run(update(controls).where(controls.c.name.like(f"{IDLE}/%")).values(value=0))
    rows = [
        {"name": f"{IDLE}/{queue}/{vo}", "value": 1, "since": tx.now, "at": tx.now} for queue, vo in sorted(set(idle))
    ]
    tx.put(controls, rows, ("value", "at"))


def request_pilots(tx: Transaction, room: Room, count: int) -> None:
    """Note that so many pilots are wanted; carrying it out submits them."""
    row = {
        "site_queue_id": room.site_queue_id,
        "site_id": room.site_id,
        "vo_id": room.vo_id,
        "state": PilotState.REQUESTED,
        "cores": room.entry.cores,
        "requested_at": tx.now,
    }
    tx.add_all(pilots, [{**row, "tag": uuid_utils.compat.uuid7().hex} for _ in range(count)])


def request_removal(tx: Transaction, pilot_ids: Sequence[int]) -> None:
    """Note that these pilots are not wanted, unless they have begun to run."""
    for chunk in in_chunks(sorted(pilot_ids)):
        pending = (pilots.c.id.in_(chunk), pilots.c.state.in_(PILOT_PENDING))
        tx.run(update(pilots).where(*pending).values(remove_requested=True))


def busy_queues(tx: Transaction) -> list[int]:
    """Site queues that have live pilots and are neither backed off nor stamped by a dead letter."""
    free = (site_queues.c.backoff_until.is_(None)) | (site_queues.c.backoff_until <= tx.now)
    query = (
        select(site_queues.c.id)
        .join(pilots, pilots.c.site_queue_id == site_queues.c.id)
        .where(pilots.c.state.in_(_LIVE), free, site_queues.c.dead_letter_id.is_(None))
        .distinct()
        .order_by(site_queues.c.id)
    )
    return [row.id for row in tx.rows(query)]


def _demand(tx: Transaction) -> Iterable[Demand]:
    waiting = [row.autocluster_id for row in tx.rows(select(waiting_jobs.c.autocluster_id).distinct())]
    counts = _counts(tx, waiting)
    for chunk in in_chunks(sorted(counts)):
        query = (
            select(autoclusters, requirements.c.body)
            .join(requirements, requirements.c.id == autoclusters.c.requirement_id)
            .where(autoclusters.c.id.in_(chunk))
            .order_by(autoclusters.c.id)
        )
        for row in tx.rows(query):
            requirement = requirement_of(row.body)
            owner = Owner(row.vo_id, row.group_id, row.owner_id, row.job_type, requirement.labels)
            yield Demand(row.vo_id, requirement, counts[row.id], row.job_type, owner)


def _counts(tx: Transaction, autocluster_ids: Sequence[int]) -> Mapping[int, int]:
    """Waiting jobs by autocluster, each read to its cap at the most."""
    counts: dict[int, int] = {}
    for chunk in in_chunks(autocluster_ids, _COUNTS_AT_ONCE):
        parts = []
        for autocluster_id in chunk:
            mine = waiting_jobs.c.autocluster_id == autocluster_id
            few = select(waiting_jobs.c.job_id).where(mine).limit(MOST_WAITING).subquery()
            parts.append(select(func.count().label("many"), _constant(autocluster_id)).select_from(few))
        whole = union_all(*parts).subquery()
        counts |= {row.id: row.many for row in tx.rows(select(whole.c.id, whole.c.many)) if row.many}
    return counts


def _constant(value: int) -> Any:
    return func.abs(value).label("id")


def _rooms(tx: Transaction) -> Iterable[Room]:
    known = {row.name: row for row in tx.rows(select(vos.c.name, vos.c.id, vos.c.share))}
    banned, tested, resting = banned_queues(tx), tested_queues(tx), resting_queues(tx)
    query = (
        select(site_queues, sites.c.name.label("site"))
        .join(sites, sites.c.id == site_queues.c.site_id)
        .where(site_queues.c.declared, sites.c.declared)
        .order_by(site_queues.c.id)
    )
    for row in tx.rows(query):
        entry = SiteQueueEntry.model_validate_json(row.entry)
        usable = row.dead_letter_id is None and (row.backoff_until is None or row.backoff_until <= tx.now)
        for vo in [known[name] for name in entry.vos if name in known]:
            everybody, own = (row.id, None), (row.id, vo.id)
            free = usable and row.id not in resting and not {everybody, own} & banned
            only = tested.get(everybody, tested.get(own))
            yield Room(row.id, row.site_id, row.site, vo.id, entry, free, only, vo.share)


def _live(tx: Transaction) -> Iterable[LivePilot]:
    taken = _taken(tx)
    query = (
        select(
            pilots,
            slots.c.cores.label("offered"),
            slots.c.memory,
            slots.c.disk,
            slots.c.gpus,
            slots.c.ends_at.label("until"),
        )
        .outerjoin(slots, slots.c.pilot_id == pilots.c.id)
        .where(pilots.c.state.in_(_LIVE))
        .order_by(pilots.c.id)
    )
    for row in tx.rows(query):
        state = PilotState(row.state)
        leaves = row.remove_requested or row.drain_requested or state in {PilotState.LOST, PilotState.DRAINING}
        common = LivePilot(row.id, row.site_queue_id, row.vo_id, state, leaves)
        if state not in PILOT_ACTIVE or row.offered is None:
            yield common
            continue
        used = taken.get(row.id, NOTHING)
        yield replace(
            common,
            cores=row.offered - used.cores,
            memory=row.memory - used.memory,
            disk=row.disk - used.disk,
            gpus=row.gpus - used.gpus,
            lasts=(row.until - tx.now).total_seconds(),
        )


def _taken(tx: Transaction) -> Mapping[int, grants.Room]:
    """What the jobs of each pilot take; those that release 0.2.0 assigned, what their templates ask for."""
    columns = (jobs.c.cores, jobs.c.memory, jobs.c.disk, jobs.c.gpus)
    query = (
        select(
            jobs.c.pilot_id,
            autoclusters.c.requirement_id,
            func.count().label("many"),
            func.count(jobs.c.cores).label("granted"),
            *(func.coalesce(func.sum(column), 0).label(column.name) for column in columns),
        )
        .join_from(pilots, jobs, jobs.c.pilot_id == pilots.c.id)
        .join(autoclusters, autoclusters.c.id == jobs.c.autocluster_id)
        .where(pilots.c.state.in_(PILOT_ACTIVE), jobs.c.state.in_(JOB_OCCUPYING))
        .group_by(jobs.c.pilot_id, autoclusters.c.requirement_id)
    )
    rows = tx.rows(query)
    known = _requirements(tx, {row.requirement_id for row in rows if row.granted < row.many})
    taken: dict[int, grants.Room] = {}
    for row in rows:
        so_far, more = taken.get(row.pilot_id, NOTHING), row.many - row.granted
        template = known[row.requirement_id].specifications()[0].least if more else NOTHING
        taken[row.pilot_id] = grants.Room(
            so_far.cores + int(row.cores) + more * template.cores,
            so_far.memory + int(row.memory) + more * template.memory,
            so_far.disk + int(row.disk) + more * template.disk,
            so_far.gpus + int(row.gpus) + more * template.gpus,
        )
    return taken


def _requirements(tx: Transaction, ids: Iterable[int]) -> Mapping[int, Requirement]:
    query = select(requirements.c.id, requirements.c.body).where(requirements.c.id.in_(set(ids)))
    return {row.id: requirement_of(row.body) for row in tx.rows(query)}


def _idle(tx: Transaction) -> frozenset[tuple[int, int]]:
    rows = tx.rows(select(controls.c.name).where(controls.c.name.like(f"{IDLE}/%"), controls.c.value == 1))
    pairs = [row.name.split("/")[1:] for row in rows]
    return frozenset((int(queue), int(vo)) for queue, vo in pairs)
