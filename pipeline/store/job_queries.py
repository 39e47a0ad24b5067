"""Jobs as their VO sees them: lists by filter, and one with its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, select

from pipeline.errors import NotFound
from pipeline.job_story import Known, tell
from pipeline.store import specs
from pipeline.store.database import Transaction
from pipeline.store.file_queries import files_of_job
from pipeline.store.job_commands import JobFilter
from pipeline.store.places import places_of
from pipeline.store.tables import attempts, campaigns, identities, job_events, jobs, peeks, sites, steps, vos
from schemas.api import AttemptView, EventView, JobSummary, JobView, PeekView
from schemas.campaign import render
from schemas.states import CampaignState, JobState


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where to look for what a job wrote: its VO's name, its newest attempt, its running attempt's tail."""

    vo: str
    attempt: int
    peek: PeekView | None
    pilots: Mapping[int, int]
    """By attempt, as far as events tell."""


def list_jobs(tx: Transaction, vo_id: int, wanted: JobFilter, *, after: int, most: int) -> list[JobSummary]:
    """Up to `most` jobs of a VO with an id above `after`, by id."""
    arriving = select(campaigns.c.id).where(campaigns.c.vo_id == vo_id, campaigns.c.state == CampaignState.ARRIVING)
    query = wanted.narrow(select(jobs.c.id), vo_id).where(jobs.c.id > after, jobs.c.campaign_id.not_in(arriving))
    ids = [row.id for row in tx.rows(query.order_by(jobs.c.id).limit(most))]
    return [_summary(row) for row in tx.rows(_query().where(jobs.c.id.in_(ids)).order_by(jobs.c.id))]


def show_job(tx: Transaction, vo_id: int, job_id: int) -> JobView:
    """A job with its events, attempts, running tail and outputs. Raises NotFound."""
    row = tx.first(_visible(vo_id, job_id))
    if row is None:
        raise _not_found(job_id)
    spec = specs.load(tx, [row.spec_id])[row.spec_id]
    values = spec.values(row.array_index)
    events, ended, outputs = _events(tx, job_id), _attempts(tx, job_id), files_of_job(tx, job_id)
    known = Known(
        owner=row.owner,
        attempts={attempt.attempt: attempt for attempt in ended},
        places=places_of(tx, {event.pilot_id for event in events if event.pilot_id is not None}),
        outputs=len(outputs),
        wake_at=row.wake_at if row.state == JobState.RECEIVED else None,
    )
    return JobView(
        **_summary(row).model_dump(),
        owner=row.owner,
        created_at=row.created_at,
        priority=row.priority,
        kill_requested=row.kill_requested,
        pilot_id=row.pilot_id,
        infrastructure_losses=row.infrastructure_losses,
        payload_failures=row.payload_failures,
        command=tuple(render(word, values) for word in spec.template.command),
        parameters=values,
        events=tuple(events),
        story=tell(events, known),
        attempts=tuple(ended),
        peek=_peek(tx, job_id),
        outputs=tuple(outputs),
    )


def place_of_job(tx: Transaction, vo_id: int, job_id: int) -> JobPlace:
    """Where a job's logs are. Raises NotFound."""
    row = tx.first(_visible(vo_id, job_id))
    if row is None:
        raise _not_found(job_id)
    return JobPlace(row.vo, row.attempt, _peek(tx, job_id), _pilots(tx, job_id))


def _not_found(job_id: int) -> NotFound:
    return NotFound(f"there is no job {job_id} in your VO; `penstock jobs list` shows them")


def _query() -> Select[Any]:
    return (
        select(
            jobs,
            steps.c.name.label("step"),
            sites.c.name.label("site"),
            vos.c.name.label("vo"),
            identities.c.subject.label("owner"),
        )
        .join(steps, steps.c.id == jobs.c.step_id)
        .join(campaigns, campaigns.c.id == jobs.c.campaign_id)
        .join(identities, identities.c.id == campaigns.c.owner_id)
        .join(vos, vos.c.id == jobs.c.vo_id)
        .outerjoin(sites, sites.c.id == jobs.c.site_id)
    )


def _visible(vo_id: int, job_id: int) -> Select[Any]:
    return _query().where(jobs.c.id == job_id, jobs.c.vo_id == vo_id, campaigns.c.state != CampaignState.ARRIVING)


def _summary(row: Row[Any]) -> JobSummary:
    return JobSummary(
        id=row.id,
        campaign_id=row.campaign_id,
        step=row.step,
        index=row.array_index,
        state=JobState(row.state),
        attempt=row.attempt,
        site=row.site,
        exit_code=row.exit_code,
        reason=row.reason,
        changed_at=row.changed_at,
    )


def _events(tx: Transaction, job_id: int) -> Sequence[EventView]:
    rows = tx.rows(select(job_events).where(job_events.c.job_id == job_id).order_by(job_events.c.id))
    return [
        EventView(
            at=row.at,
            attempt=row.attempt,
            from_state=JobState(row.from_state) if row.from_state else None,
            to_state=JobState(row.to_state),
            reason=row.reason,
            pilot_id=row.pilot_id,
        )
        for row in rows
    ]


def _attempts(tx: Transaction, job_id: int) -> Sequence[AttemptView]:
    rows = tx.rows(select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.attempt))
    return [
        AttemptView(
            attempt=row.attempt,
            outcome=row.outcome,
            exit_code=row.exit_code,
            reason=row.reason,
            minor=row.minor,
            wall_time=row.wall_time,
            cpu_time=row.cpu_time,
            memory=row.memory,
            ended_at=row.ended_at,
        )
        for row in rows
    ]


def _pilots(tx: Transaction, job_id: int) -> dict[int, int]:
    query = select(job_events.c.attempt, job_events.c.pilot_id).order_by(job_events.c.id)
    rows = tx.rows(query.where(job_events.c.job_id == job_id, job_events.c.pilot_id.is_not(None)))
    return {row.attempt: row.pilot_id for row in rows}


def _peek(tx: Transaction, job_id: int) -> PeekView | None:
    row = tx.first(select(peeks).where(peeks.c.job_id == job_id))
    if row is None:
        return None
    return PeekView(
        attempt=row.attempt,
        at=row.at,
        wall_time=row.wall_time,
        cpu_time=row.cpu_time,
        memory=row.memory,
        tail=row.tail,
    )
