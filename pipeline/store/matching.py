"""What matching reads and writes of pilots: their slots, where they are, what their jobs take.

Lock order: slots, waiting_jobs, jobs, limits, start_rates, usage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, Row, Select, func, select, update

from pipeline.store import specs
from pipeline.store.bans import banned_queues, tested_queues
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.match_rows import Place
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import pilots, resources, site_queues, sites, slots, waiting_jobs
from schemas.nodes import NodeKind, slot_resource
from schemas.requirements import Resource
from schemas.rooms import Room
from schemas.sites import SiteQueueEntry
from schemas.states import JOB_OCCUPYING, PilotState

FRESH = 2.0
"""Seconds for which the entry of a site queue is believed: it may be long, and pilots of one queue offer often."""
_MOST_SIZES = 1_000
"""Of one queue: every pilot may say another size of its disk."""


@dataclass(frozen=True, slots=True)
class Alive:
    """What makes a pilot usable: seconds since it was last seen, failures in a row."""

    heartbeat_timeout: float
    max_failures: int


@dataclass(frozen=True, slots=True)
class Totals:
    """A slot: all that its pilot has, and what it is kept for."""

    pilot_id: int
    total: Room
    ends_at: datetime
    reserved_for: int | None


@dataclass(slots=True)
class _Queue:
    """What was read of a site queue, and when."""

    site: str
    entry: str
    at: datetime
    found: dict[tuple[int | None, Room], tuple[Resource, int]] = field(default_factory=dict)
    """By kind of node and exact totals."""
    kinds: dict[tuple[int | None, Room], tuple[Resource, int]] = field(default_factory=dict)
    """By kind of node and coarse totals."""


class Kinds:
    """The kinds of slots that a process has met: each one's resource, and a number that those share which only differ
    in how much memory and disk they have, and only little: see `Room.coarse`."""

    def __init__(self) -> None:
        self._queues: dict[int, _Queue] = {}
        self._nodes: dict[int, NodeKind] = {}
        self._numbers: dict[str, int] = {}

    def learn(self, tx: Transaction, queue_ids: Iterable[int], resource_ids: Iterable[int]) -> None:
        """Read what nodes of these kinds are like, where it is not known yet, and what these queues declare, where
        that was read a while ago."""
        for part in in_chunks(sorted(set(resource_ids) - self._nodes.keys())):
            query = select(resources.c.id, resources.c.body, resources.c.containers).where(resources.c.id.in_(part))
            self._nodes |= {row.id: NodeKind.stored(row.body, row.containers) for row in tx.rows(query)}
        since = tx.after(-FRESH)
        known = self._queues
        stale = [queue_id for queue_id in set(queue_ids) if queue_id not in known or known[queue_id].at < since]
        for part in in_chunks(sorted(stale)):
            of_site = select(site_queues.c.id, site_queues.c.entry, sites.c.name)
            for row in tx.rows(
                of_site.join(sites, sites.c.id == site_queues.c.site_id).where(site_queues.c.id.in_(part))
            ):
                before = known.get(row.id)
                if before is None or (before.site, before.entry) != (row.name, row.entry):
                    known[row.id] = _Queue(row.name, row.entry, tx.now)
                else:
                    before.at = tx.now

    def of(self, queue_id: int, resource_id: int | None, total: Room) -> tuple[Resource, int]:
        """The resource of a slot, and its number."""
        queue = self._queues[queue_id]
        known = queue.found.get((resource_id, total))
        if known is None:
            if len(queue.found) >= _MOST_SIZES:
                queue.found.clear()  # numbers stay: whoever keeps something by them is not misled
            kind, number = self._kind(queue, resource_id, total.coarse())
            known = queue.found[resource_id, total] = (kind.with_room(total), number)
        return known

    def _kind(self, queue: _Queue, resource_id: int | None, coarse: Room) -> tuple[Resource, int]:
        known = queue.kinds.get((resource_id, coarse))
        if known is None:
            node = None if resource_id is None else self._nodes.get(resource_id)
            resource = slot_resource(queue.site, SiteQueueEntry.model_validate_json(queue.entry), node, coarse)
            number = self._numbers.setdefault(resource.signature(), len(self._numbers) + 1)
            known = queue.kinds[resource_id, coarse] = (resource, number)
        return known


def lock_slots(
    tx: Transaction, pilot_ids: Iterable[int], state: str, *, skip_locked: bool = False
) -> Mapping[int, Totals]:
    """The slots of these pilots that are in this state, locked in order of pilots.

    Those in another state are locked with them: by the index of states, rows would be locked in another order.
    """
    found: dict[int, Totals] = {}
    for chunk in in_chunks(sorted(set(pilot_ids))):
        query = select(slots.c.state, *_TOTALS).where(slots.c.pilot_id.in_(chunk)).order_by(slots.c.pilot_id)
        rows = tx.lock(query, skip_locked=skip_locked)
        found |= {row.pilot_id: _totals(row) for row in rows if row.state == state}
    return found


def parked_slots(
    tx: Transaction, vo_ids: Iterable[int], *, after: int = 0, most: int | None = None
) -> Mapping[int, Totals]:
    """Parked slots of these VOs, unlocked: all, or the first `most` of pilots whose ids are above `after`."""
    query = select(*_TOTALS).where(
        slots.c.state == "parked", slots.c.vo_id.in_(sorted(set(vo_ids))), slots.c.pilot_id > after
    )
    if most is not None:
        query = query.order_by(slots.c.pilot_id).limit(most)
    return {row.pilot_id: _totals(row) for row in tx.rows(query)}


def count_waiting(tx: Transaction, autocluster_ids: Iterable[int], most: int) -> Mapping[int, int]:
    """Jobs that wait, by autocluster; where there are `most` or more in all, each may have as many."""
    wanted = sorted(set(autocluster_ids))
    some = select(waiting_jobs.c.autocluster_id).where(waiting_jobs.c.autocluster_id.in_(wanted)).limit(most).subquery()
    query = select(some.c.autocluster_id, func.count().label("many")).group_by(some.c.autocluster_id)
    found = {row.autocluster_id: row.many for row in tx.rows(query)}
    return found if sum(found.values()) < most else dict.fromkeys(wanted, most)


def places(tx: Transaction, found: Mapping[int, Totals], kinds: Kinds, alive: Alive) -> Mapping[int, Place]:
    """Where the usable ones among the pilots of these slots are."""
    rows = [row for chunk in in_chunks(sorted(found)) for row in _pilot_rows(tx, chunk, alive)]
    if not rows:
        return {}
    banned, tested = banned_queues(tx), tested_queues(tx)
    kinds.learn(
        tx, {row.site_queue_id for row in rows}, {row.resource_id for row in rows if row.resource_id is not None}
    )
    usable: dict[int, Place] = {}
    for row in rows:
        for_all, for_vo = (row.site_queue_id, None), (row.site_queue_id, row.vo_id)
        if for_all in banned or for_vo in banned:
            continue
        totals = found[row.id]
        resource, key = kinds.of(row.site_queue_id, row.resource_id, totals.total)
        usable[row.id] = Place(
            pilot_id=row.id,
            vo_id=row.vo_id,
            site_id=row.site_id,
            queue_id=row.site_queue_id,
            resource=resource,
            resource_key=key,
            only_job_type=tested.get(for_all, tested.get(for_vo)),
            reserved_for=totals.reserved_for,
        )
    return usable


def occupied(tx: Transaction, pilot_ids: Iterable[int]) -> Mapping[int, Room]:
    """What the jobs of these pilots take; pilots without jobs are left out.

    Attempts of release 0.2.0 were granted what their template says.
    """
    taken: dict[int, Room] = {}
    ungranted: list[int] = []
    for chunk in in_chunks(sorted(set(pilot_ids))):
        for row in tx.rows(_occupied(chunk)):
            taken[row.pilot_id] = _room(row)
            if row.ungranted:
                ungranted.append(row.pilot_id)
    for pilot_id, room in _by_template(tx, ungranted):
        taken[pilot_id] = _sum(taken[pilot_id], room)
    return taken


def set_slots(tx: Transaction, pilot_ids: Iterable[int], state: str) -> None:
    """Move locked slots; nobody need look at them again."""
    for chunk in in_chunks(sorted(pilot_ids)):
        tx.run(update(slots).where(slots.c.pilot_id.in_(chunk)).values(state=state, wake_at=None))


_TOTALS = tuple(slots.c[name] for name in ("pilot_id", "cores", "memory", "disk", "gpus", "ends_at", "reserved_for"))


def _totals(row: Row[Any]) -> Totals:
    return Totals(row.pilot_id, _room(row), row.ends_at, row.reserved_for)


def _room(row: Row[Any]) -> Room:
    return Room(int(row.cores), int(row.memory), int(row.disk), int(row.gpus))


def _sum(one: Room, other: Room) -> Room:
    return Room(one.cores + other.cores, one.memory + other.memory, one.disk + other.disk, one.gpus + other.gpus)


def _pilot_rows(tx: Transaction, pilot_ids: Iterable[int], alive: Alive) -> Iterable[Row[Any]]:
    query = (
        select(
            pilots.c.id,
            pilots.c.vo_id,
            pilots.c.site_id,
            pilots.c.site_queue_id,
            pilots.c.resource_id,
        )
        .join(site_queues, site_queues.c.id == pilots.c.site_queue_id)
        .where(
            pilots.c.id.in_(list(pilot_ids)),
            pilots.c.state == PilotState.RUNNING,
            ~pilots.c.drain_requested,
            ~pilots.c.remove_requested,
            pilots.c.failures_in_row < alive.max_failures,
            pilots.c.last_seen > tx.after(-alive.heartbeat_timeout),
            site_queues.c.declared,
        )
    )
    return tx.rows(query)


def _occupied(pilot_ids: Iterable[int]) -> Select[Any]:
    """Sums over a pilot's attempts that were granted something, and how many were not."""
    granted = [
        func.coalesce(func.sum(jobs_table.c[name]), 0, type_=Integer).label(name)
        for name in ("cores", "memory", "disk", "gpus")
    ]
    ungranted = (func.count() - func.count(jobs_table.c.cores)).label("ungranted")
    return (
        select(jobs_table.c.pilot_id, ungranted, *granted)
        .where(jobs_table.c.pilot_id.in_(list(pilot_ids)), jobs_table.c.state.in_(JOB_OCCUPYING))
        .group_by(jobs_table.c.pilot_id)
    )


def _by_template(tx: Transaction, pilot_ids: Sequence[int]) -> list[tuple[int, Room]]:
    """What the template of each attempt wants that was granted nothing: (pilot, room)."""
    if not pilot_ids:
        return []
    mine = (jobs_table.c.pilot_id.in_(pilot_ids), jobs_table.c.state.in_(JOB_OCCUPYING), jobs_table.c.cores.is_(None))
    rows = tx.rows(select(jobs_table.c.pilot_id, jobs_table.c.spec_id).where(*mine))
    templates = specs.load(tx, {row.spec_id for row in rows})
    found = []
    for row in rows:
        needs = templates[row.spec_id].template.requirements.needs
        room = Room(needs.min_cores, needs.memory(needs.min_cores), needs.disk, needs.min_gpus)
        found.append((row.pilot_id, room))
    return found
