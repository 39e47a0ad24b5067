"""Why a job is where it is: read at one moment, for the people of its VO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select

from pipeline.because import JobFacts, reasons
from pipeline.errors import NotFound
from pipeline.store import specs
from pipeline.store.database import Transaction
from pipeline.store.limit_queries import list_limits
from pipeline.store.matching import Alive
from pipeline.store.queue_whys import Asked, queue_whys
from pipeline.store.share_queries import holders, in_turn
from pipeline.store.specs import Spec
from pipeline.store.tables import (
    autoclusters,
    campaigns,
    groups,
    identities,
    jobs,
    pilots,
    requirements,
    sites,
    steps,
    waiting_jobs,
)
from schemas.requirements import Requirement
from schemas.share_views import LimitView
from schemas.states import CampaignState, JobState, StepState
from schemas.why_views import MOST_COUNTED, JobWhy, Turn

_NOT_LOOKED_AT = frozenset({JobState.RECEIVED, JobState.HELD, JobState.STAGING})
"""In these states the autocluster, if there is one, is that of an earlier attempt."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Settings: seconds before their wall time that pilots end, what makes a pilot usable, half-life in seconds."""

    margin: float
    alive: Alive
    half_life: float


def explain_job(tx: Transaction, vo_id: int, job_id: int, terms: Terms) -> JobWhy:
    """A job's state with its reasons, its turn, and what each site queue of the VO lacks for it. Raises NotFound."""
    row = _row(tx, vo_id, job_id)
    state = JobState(row.state)
    spec = specs.load(tx, [row.spec_id])[row.spec_id]
    requirement = _requirement(tx, row, spec)
    limits = [limit for limit in list_limits(tx, vo_id) if _concerns(limit, row, spec, requirement)]
    asked = Asked(vo_id, requirement, spec.template.job_type, row.autocluster_id, terms.margin, terms.alive, limits)
    queues = queue_whys(tx, asked)
    turn = _turn(tx, row, terms.half_life) if state is JobState.WAITING else None
    return JobWhy(
        job_id=row.id,
        campaign_id=row.campaign_id,
        step=row.step,
        state=state,
        changed_at=row.changed_at,
        owner=row.owner,
        group=row.group,
        job_type=spec.template.job_type,
        priority=row.priority,
        requirement=requirement,
        because=tuple(reasons(_facts(tx, row), queues)),
        turn=turn,
        full=tuple(limit for limit in limits if not limit.free),
        queues=tuple(queues),
    )


def _row(tx: Transaction, vo_id: int, job_id: int) -> Row[Any]:
    query = (
        select(
            jobs,
            steps.c.name.label("step"),
            steps.c.state.label("step_state"),
            steps.c.after,
            campaigns.c.state.label("campaign_state"),
            campaigns.c.owner_id,
            identities.c.subject.label("owner"),
            identities.c.group_id,
            groups.c.name.label("group"),
            sites.c.name.label("site"),
            pilots.c.last_seen,
        )
        .join(steps, steps.c.id == jobs.c.step_id)
        .join(campaigns, campaigns.c.id == jobs.c.campaign_id)
        .join(identities, identities.c.id == campaigns.c.owner_id)
        .join(groups, groups.c.id == identities.c.group_id)
        .outerjoin(sites, sites.c.id == jobs.c.site_id)
        .outerjoin(pilots, pilots.c.id == jobs.c.pilot_id)
        .where(jobs.c.id == job_id, jobs.c.vo_id == vo_id, campaigns.c.state != CampaignState.ARRIVING)
    )
    row = tx.first(query)
    if row is None:
        raise NotFound(f"there is no job {job_id} in your VO; `penstock jobs list` shows them")
    return row


def _requirement(tx: Transaction, row: Row[Any], spec: Spec) -> Requirement:
    """What is matched: the template's, narrowed to the sites that have its inputs once that is known."""
    if row.autocluster_id is None or JobState(row.state) in _NOT_LOOKED_AT:
        return spec.template.requirements
    query = (
        select(requirements.c.body)
        .join(autoclusters, autoclusters.c.requirement_id == requirements.c.id)
        .where(autoclusters.c.id == row.autocluster_id)
    )
    body = tx.scalar(query)
    return spec.template.requirements if body is None else Requirement.model_validate_json(body)


def _concerns(limit: LimitView, row: Row[Any], spec: Spec, requirement: Requirement) -> bool:
    """Whether the job counts against the limit, wherever it says; sites are each queue's matter."""
    own = {"group": row.group, "owner": row.owner, "job_type": spec.template.job_type}
    if any(getattr(limit, word) not in (None, value) for word, value in own.items()):
        return False
    return limit.label is None or limit.label in requirement.labels


def _facts(tx: Transaction, row: Row[Any]) -> JobFacts:
    return JobFacts(
        id=row.id,
        campaign_id=row.campaign_id,
        step=row.step,
        state=JobState(row.state),
        reason=row.reason,
        campaign_state=CampaignState(row.campaign_state),
        step_state=StepState(row.step_state),
        after=tuple(row.after),
        kill_requested=row.kill_requested,
        dead_letter_id=row.dead_letter_id,
        sleeps_until=row.wake_at if row.wake_at is not None and row.wake_at > tx.now else None,
        site=row.site,
        pilot_id=row.pilot_id,
        last_seen=row.last_seen,
    )


def _turn(tx: Transaction, row: Row[Any], half_life: float) -> Turn:
    waiting = in_turn(one for one in holders(tx, row.vo_id, half_life) if one.has_waiting)
    groups_in_turn = [members[0].group_id for members in waiting]
    members = next((found for found in waiting if found[0].group_id == row.group_id), [])
    owners = [one.owner_id for one in members]
    return Turn(
        group=row.group,
        group_place=_place(groups_in_turn, row.group_id),
        groups=len(groups_in_turn),
        owner=row.owner,
        owner_place=_place(owners, row.owner_id),
        owners=len(owners),
        higher=_count(tx, _of_owner(row), waiting_jobs.c.descent < -row.priority),
        older=_count(
            tx,
            waiting_jobs.c.autocluster_id == row.autocluster_id,
            waiting_jobs.c.descent == -row.priority,
            waiting_jobs.c.job_id < row.id,
        ),
    )


def _place(order: Sequence[int], one: int) -> int:
    return order.index(one) + 1 if one in order else len(order) + 1


def _of_owner(row: Row[Any]) -> ColumnElement[bool]:
    own = (autoclusters.c.owner_id == row.owner_id, autoclusters.c.group_id == row.group_id)
    return waiting_jobs.c.autocluster_id.in_(select(autoclusters.c.id).where(*own))


def _count(tx: Transaction, *conditions: ColumnElement[bool]) -> int:
    some = select(waiting_jobs.c.job_id).where(*conditions).limit(MOST_COUNTED).subquery()
    return int(tx.scalar(select(func.count()).select_from(some)))
