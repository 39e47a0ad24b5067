"""What waits for pilots: waiting jobs counted by autocluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, union_all

from pipeline.store.autoclusters import Owner, requirement_of
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.provisioning_rows import Demand
from pipeline.store.tables import autoclusters, jobs, requirements, steps, waiting_jobs
from schemas.states import JobState, StepState

MOST_WAITING = 10_000
"""Waiting jobs counted of one autocluster at the most."""
_COUNTS_AT_ONCE = 50


def demand(tx: Transaction) -> Iterable[Demand]:
    """The waiting jobs of all VOs, by autocluster."""
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


def anything_waits(tx: Transaction) -> bool:
    """Whether any job is in the state waiting, by the jobs themselves."""
    query = (
        select(jobs.c.id)
        .join_from(steps, jobs, jobs.c.step_id == steps.c.id)
        .where(steps.c.state.in_((StepState.RUNNING, StepState.BLOCKED)), jobs.c.state == JobState.WAITING)
    )
    return tx.first(query) is not None


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
