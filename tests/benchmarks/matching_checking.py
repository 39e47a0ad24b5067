"""Whether a run of matching was right, by the rows that it left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from random import Random

from sqlalchemy import Column, ColumnElement, func, select, true

from pipeline.store.database import Database, Transaction, in_chunks
from pipeline.store.tables import (
    autoclusters,
    job_events,
    jobs,
    pilots,
    requirements,
    resources,
    site_queues,
    sites,
    slots,
    waiting_jobs,
)
from schemas.nodes import NodeKind, slot_resource
from schemas.requirements import Requirement, fits
from schemas.rooms import Room
from schemas.sites import SiteQueueEntry
from schemas.states import JOB_OCCUPYING, JobState

SAMPLE = 3_000
_MATCHED = (jobs.c.state.in_(JOB_OCCUPYING), jobs.c.pilot_id.is_not(None))


@dataclass(frozen=True, slots=True)
class Before:
    """What was there before a run."""

    last_event: int
    last_job: int


def before(database: Database) -> Before:
    """The state to compare with."""
    return database.read(
        lambda tx: Before(
            tx.scalar(select(func.coalesce(func.max(job_events.c.id), 0))),
            tx.scalar(select(func.coalesce(func.max(jobs.c.id), 0))),
        )
    )


def check(database: Database, pilot_ids: range, since: Before, kept_back: int) -> int:
    """Raises AssertionError for the first thing that is wrong; how many jobs the run matched.

    `kept_back` jobs wait without being in `waiting_jobs`, since the run did not come to them.
    """
    matched = database.read(lambda tx: _once_each(tx, pilot_ids, since))
    _waiting_agrees(database, kept_back)
    database.read(lambda tx: _not_overcommitted(tx, pilot_ids))
    for some in in_chunks(Random(matched).sample(pilot_ids, min(SAMPLE // 8, len(pilot_ids))), 100):
        database.read(partial(_all_fit, pilot_ids=some))
    return matched


def _once_each(tx: Transaction, pilot_ids: range, since: Before) -> int:
    """Every matched job has exactly one event of it, that names its pilot."""
    of_run = (jobs.c.pilot_id.between(pilot_ids[0], pilot_ids[-1]), *_MATCHED)
    matched = int(tx.scalar(select(func.count()).select_from(jobs).where(*of_run)))
    of_events = (job_events.c.id > since.last_event, job_events.c.to_state == JobState.MATCHED)
    events = int(tx.scalar(select(func.count()).select_from(job_events).where(*of_events)))
    of_jobs = int(tx.scalar(select(func.count(job_events.c.job_id.distinct())).where(*of_events)))
    assert events == of_jobs, f"{events - of_jobs} jobs were matched twice"
    assert events == matched, f"{matched} jobs are matched, there are {events} events of it"
    agreeing = select(func.count()).select_from(job_events).join(jobs, jobs.c.id == job_events.c.job_id)
    same = (job_events.c.pilot_id == jobs.c.pilot_id, job_events.c.attempt == jobs.c.attempt)
    assert tx.scalar(agreeing.where(*of_events, *same)) == matched, "events name other pilots than the jobs"
    return matched


def _waiting_agrees(database: Database, kept_back: int) -> None:
    """There are as many rows of `waiting_jobs` as jobs that wait."""
    waiting = _count(database, jobs.c.id, 500_000, jobs.c.state == JobState.WAITING) - kept_back
    rows = _count(database, waiting_jobs.c.autocluster_id, 100, true())
    assert rows == waiting, f"{rows} rows of waiting_jobs, {waiting} jobs that wait"


def _count(database: Database, key: Column[int], at_once: int, condition: ColumnElement[bool]) -> int:
    """Rows of the table of `key`, so many keys at a time: a statement may not take as long as all would."""
    last = database.read(lambda tx: tx.scalar(select(func.max(key)))) or 0
    counted = 0
    for start in range(0, last + 1, at_once):
        query = select(func.count()).where(key >= start, key < start + at_once, condition)
        counted += database.read(partial(Transaction.scalar, query=query))
    return counted


def _not_overcommitted(tx: Transaction, pilot_ids: range) -> None:
    """No slot's jobs take more than it has."""
    taken = {name: func.sum(jobs.c[name]) for name in ("cores", "memory", "disk", "gpus")}
    too_much = [total > slots.c[name] for name, total in taken.items()]
    query = (
        select(slots.c.pilot_id)
        .join(jobs, jobs.c.pilot_id == slots.c.pilot_id)
        .where(jobs.c.pilot_id.between(pilot_ids[0], pilot_ids[-1]), *_MATCHED)
        .group_by(slots.c.pilot_id, *(slots.c[name] for name in taken))
    )
    full = tx.rows(query.having(too_much[0] | too_much[1] | too_much[2] | too_much[3]))
    assert not full, f"{len(full)} pilots have more than they offered, {full[0].pilot_id} the first"
    unsaid = select(func.count()).select_from(jobs)
    of_run = (jobs.c.pilot_id.between(pilot_ids[0], pilot_ids[-1]), *_MATCHED)
    assert tx.scalar(unsaid.where(*of_run, jobs.c.cores.is_(None))) == 0, "jobs were matched without a grant"


def _all_fit(tx: Transaction, pilot_ids: Sequence[int]) -> None:
    """Every job of these pilots may run there."""
    query = (
        select(
            jobs.c.id,
            jobs.c.matched_at,
            requirements.c.body,
            sites.c.name.label("site"),
            site_queues.c.entry,
            resources.c.body.label("node"),
            slots.c.cores,
            slots.c.memory,
            slots.c.disk,
            slots.c.gpus,
            slots.c.ends_at,
        )
        .join(autoclusters, autoclusters.c.id == jobs.c.autocluster_id)
        .join(requirements, requirements.c.id == autoclusters.c.requirement_id)
        .join(pilots, pilots.c.id == jobs.c.pilot_id)
        .join(slots, slots.c.pilot_id == pilots.c.id)
        .join(sites, sites.c.id == pilots.c.site_id)
        .join(site_queues, site_queues.c.id == pilots.c.site_queue_id)
        .join(resources, resources.c.id == pilots.c.resource_id)
        .where(jobs.c.pilot_id.in_(pilot_ids), *_MATCHED)
    )
    for row in tx.rows(query):
        requirement = Requirement.model_validate_json(row.body)
        entry, node = SiteQueueEntry.model_validate_json(row.entry), NodeKind.model_validate_json(row.node)
        resource = slot_resource(row.site, entry, node, Room(row.cores, row.memory, row.disk, row.gpus))
        left = _seconds(row.matched_at, row.ends_at)
        fit = fits(requirement, resource.model_copy(update={"wall_time": int(left)}))
        assert fit, f"job {row.id} does not fit where it was matched: {'; '.join(fit.reasons)}"


def _seconds(matched_at: datetime, ends_at: datetime) -> float:
    return (ends_at - matched_at).total_seconds()
