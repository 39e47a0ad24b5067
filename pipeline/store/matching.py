"""What matching reads and writes: slots, what waits for them, and the room that limits leave.

Lock order: slots, waiting_jobs, jobs, limits. Waiting jobs and their rows are locked by skipping what others
hold, so that a matcher never waits for anybody who waits for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from sqlalchemy import ColumnElement, delete, func, select, update

from pipeline.store import jobs, specs
from pipeline.store.bans import banned_queues
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import JobRow
from pipeline.store.tables import autoclusters, limits, pilots, requirements, site_queues, sites, slots, waiting_jobs
from pipeline.store.tables import jobs as jobs_table
from schemas.requirements import Names, Requirement
from schemas.sites import SiteQueueEntry
from schemas.states import JOB_OCCUPYING, JobState, PilotState


@dataclass(frozen=True, slots=True)
class Level:
    """The waiting jobs of one autocluster that have one priority; `head_job_id` is the oldest of them."""

    autocluster_id: int
    vo_id: int
    priority: int
    head_job_id: int
    signature: str
    requirement: Requirement


@dataclass(frozen=True, slots=True)
class Place:
    """Where a usable pilot is: it runs, does not drain, was heard of, and is not banned."""

    pilot_id: int
    vo_id: int
    site_id: int
    site: str
    tags: Names


@dataclass(frozen=True, slots=True)
class Room:
    """Cores, and MiB of memory and disk."""

    cores: int
    memory: int
    disk: int


@dataclass(frozen=True, slots=True)
class Alive:
    """What makes a pilot usable: seconds since it was last seen, infrastructure failures in a row."""

    heartbeat_timeout: float
    max_failures: int


def heads(tx: Transaction, vo_ids: Iterable[int]) -> list[Level]:
    """The highest level of each autocluster of these VOs that has waiting jobs, by one look into the index for each.

    `GROUP BY` would ask less, if MariaDB chose the loose index scan; measured, it reads the whole index unless its
    statistics happen to be fresh.
    """
    first = select(waiting_jobs.c.descent).where(waiting_jobs.c.autocluster_id == autoclusters.c.id)
    first = first.order_by(waiting_jobs.c.descent).limit(1)
    clusters = (
        select(
            autoclusters.c.id,
            autoclusters.c.vo_id,
            autoclusters.c.requirement_id,
            first.scalar_subquery().label("descent"),
        )
        .where(autoclusters.c.vo_id.in_(set(vo_ids)))
        .subquery()
    )
    oldest = select(waiting_jobs.c.job_id).where(
        waiting_jobs.c.autocluster_id == clusters.c.id, waiting_jobs.c.descent == clusters.c.descent
    )
    query = (
        select(
            clusters,
            oldest.order_by(waiting_jobs.c.job_id).limit(1).scalar_subquery().label("head"),
            requirements.c.signature,
            requirements.c.body,
        )
        .join(requirements, requirements.c.id == clusters.c.requirement_id)
        .where(clusters.c.descent.is_not(None))
    )
    return [
        Level(row.id, row.vo_id, -row.descent, row.head, row.signature, _parsed(row.body))
        for row in tx.rows(query)
        if row.head is not None
    ]


def next_level(tx: Transaction, level: Level) -> Level | None:
    """The level of the same autocluster that comes after this one; None when there is none."""
    query = (
        select(waiting_jobs.c.descent, waiting_jobs.c.job_id)
        .where(waiting_jobs.c.autocluster_id == level.autocluster_id, waiting_jobs.c.descent > -level.priority)
        .order_by(waiting_jobs.c.descent, waiting_jobs.c.job_id)
    )
    row = tx.first(query)
    return None if row is None else replace(level, priority=-row.descent, head_job_id=row.job_id)


def vos_of(tx: Transaction, autocluster_ids: Iterable[int]) -> frozenset[int]:
    """The VOs that these autoclusters belong to."""
    query = select(autoclusters.c.vo_id).where(autoclusters.c.id.in_(set(autocluster_ids))).distinct()
    return frozenset(row.vo_id for row in tx.rows(query))


def places_of(tx: Transaction, pilot_ids: Iterable[int], alive: Alive) -> Mapping[int, Place]:
    """The usable ones among these pilots."""
    found: dict[int, Place] = {}
    for chunk in in_chunks(sorted(set(pilot_ids))):
        found |= _places(tx, pilots.c.id.in_(chunk), alive)
    return found


def parked_places(tx: Transaction, vo_ids: Iterable[int], alive: Alive) -> Mapping[int, Place]:
    """Every usable pilot of these VOs whose slot is parked."""
    parked = select(slots.c.pilot_id).where(slots.c.state == "parked", slots.c.vo_id.in_(set(vo_ids)))
    return _places(tx, pilots.c.id.in_(parked), alive)


@dataclass(frozen=True, slots=True)
class Totals:
    """A locked slot: all that its pilot has."""

    pilot_id: int
    total: Room
    ends_at: datetime


def lock_slots(
    tx: Transaction, pilot_ids: Iterable[int], state: str, *, skip_locked: bool = False
) -> Mapping[int, Totals]:
    """The slots of these pilots that are in this state, locked in order of pilots."""
    found: dict[int, Totals] = {}
    for chunk in in_chunks(sorted(set(pilot_ids))):
        mine = (slots.c.pilot_id.in_(chunk), slots.c.state == state)
        for row in tx.lock(select(slots).where(*mine).order_by(slots.c.pilot_id), skip_locked=skip_locked):
            found[row.pilot_id] = Totals(row.pilot_id, Room(row.cores, row.memory, row.disk), row.ends_at)
    return found


def occupied(tx: Transaction, pilot_ids: Iterable[int]) -> Mapping[int, Room]:
    """What the jobs of these pilots take; pilots without jobs are left out."""
    counts: dict[tuple[int, int], int] = {}
    for chunk in in_chunks(sorted(set(pilot_ids))):
        query = (
            select(jobs_table.c.pilot_id, jobs_table.c.spec_id, func.count().label("many"))
            .where(jobs_table.c.pilot_id.in_(chunk), jobs_table.c.state.in_(JOB_OCCUPYING))
            .group_by(jobs_table.c.pilot_id, jobs_table.c.spec_id)
        )
        counts |= {(row.pilot_id, row.spec_id): row.many for row in tx.rows(query)}
    templates = specs.load(tx, {spec_id for _, spec_id in counts})
    taken: defaultdict[int, Room] = defaultdict(lambda: Room(0, 0, 0))
    for (pilot_id, spec_id), many in counts.items():
        wants, so_far = templates[spec_id].template.requirements, taken[pilot_id]
        taken[pilot_id] = Room(
            so_far.cores + many * wants.cores, so_far.memory + many * wants.memory, so_far.disk + many * wants.disk
        )
    return taken


def take(tx: Transaction, level: Level, most: int) -> list[JobRow]:
    """Up to `most` jobs of a level, locked, the oldest first; fewer than there are where others hold some.

    Rows of jobs that do not wait, or are gone, are thrown away: they would stand at the head for good.
    """
    of_level = (
        waiting_jobs.c.autocluster_id == level.autocluster_id,
        waiting_jobs.c.descent == -level.priority,
    )
    query = select(waiting_jobs.c.job_id).where(*of_level).order_by(waiting_jobs.c.job_id).limit(most)
    ids = [row.job_id for row in tx.lock(query, skip_locked=True)]
    found: list[JobRow] = []
    for chunk in in_chunks(ids):
        found += jobs.lock_where(tx, jobs.columns().where(jobs_table.c.id.in_(chunk)), skip_locked=True)
    stale = [job.id for job in found if job.state is not JobState.WAITING]
    if len(found) < len(ids):
        there = {row.id for row in tx.rows(select(jobs_table.c.id).where(jobs_table.c.id.in_(ids)))}
        stale += sorted(set(ids) - there)
    if stale:
        tx.run(delete(waiting_jobs).where(*of_level, waiting_jobs.c.job_id.in_(stale)))
    return [job for job in found if job.state is JobState.WAITING]


def site_rooms(tx: Transaction, site_ids: Iterable[int], *, lock: bool = False) -> Mapping[int, int]:
    """How many more jobs may run at each of these sites that has a limit; `lock` keeps it so until the end."""
    query = (
        select(limits.c.subject_id, limits.c.maximum, limits.c.running)
        .where(limits.c.kind == "site", limits.c.subject_id.in_(set(site_ids)))
        .order_by(limits.c.subject_id)
    )
    rows = tx.lock(query) if lock else tx.rows(query)
    return {row.subject_id: max(row.maximum - row.running, 0) for row in rows if row.maximum is not None}


def set_slots(tx: Transaction, pilot_ids: Iterable[int], state: str) -> None:
    """Move locked slots; nobody need look at them again."""
    for chunk in in_chunks(sorted(pilot_ids)):
        tx.run(update(slots).where(slots.c.pilot_id.in_(chunk)).values(state=state, wake_at=None))


def _places(tx: Transaction, condition: ColumnElement[bool], alive: Alive) -> dict[int, Place]:
    banned = banned_queues(tx)
    query = (
        select(pilots.c.id, pilots.c.vo_id, pilots.c.site_id, pilots.c.site_queue_id, sites.c.name, site_queues.c.entry)
        .join(sites, sites.c.id == pilots.c.site_id)
        .join(site_queues, site_queues.c.id == pilots.c.site_queue_id)
        .where(
            condition,
            pilots.c.state == PilotState.RUNNING,
            ~pilots.c.drain_requested,
            ~pilots.c.remove_requested,
            pilots.c.failures_in_row < alive.max_failures,
            pilots.c.last_seen > tx.after(-alive.heartbeat_timeout),
            site_queues.c.declared,
        )
    )
    return {
        row.id: Place(row.id, row.vo_id, row.site_id, row.name, _tags(row.entry))
        for row in tx.rows(query)
        if not {(row.site_queue_id, None), (row.site_queue_id, row.vo_id)} & banned
    }


@lru_cache(maxsize=10_000)
def _parsed(body: str) -> Requirement:
    return Requirement.model_validate_json(body)


@lru_cache(maxsize=1_000)
def _tags(entry: str) -> Names:
    return SiteQueueEntry.model_validate_json(entry).tags
