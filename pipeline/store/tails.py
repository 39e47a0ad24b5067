"""Tails of campaigns: the last jobs of a step, on which all that comes after it waits, and their boost.

A boosted job has a priority above all that people may give, so that it goes before every other job of its owner;
boosted ones keep their order among themselves. The optimiser sets the priority that the template says whenever a job
becomes waiting: a retried job is boosted anew.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select, update

from pipeline.store import many_jobs
from pipeline.store.database import Transaction
from pipeline.store.steps import UNFINISHED, has_job
from pipeline.store.tables import jobs, steps, waiting_jobs
from schemas.campaign import HIGHEST_PRIORITY
from schemas.states import JOB_FINAL, JobState, StepState

BOOST = 2 * HIGHEST_PRIORITY + 1
MOST_LEFT = 1_000
"""Jobs that a tail may have."""
OVER_PER_LEFT = 19
"""Jobs that are over for each that is left: 95 % of all."""


def late_steps(tx: Transaction) -> list[int]:
    """Running steps that are down to their tail and have waiting jobs that were not boosted yet.

    A step's jobs are counted along the index, and no further than tells whether it is one.
    """
    waiting = has_job((JobState.WAITING,), jobs.c.priority <= HIGHEST_PRIORITY)
    running = select(steps.c.id).where(steps.c.state == StepState.RUNNING, waiting).order_by(steps.c.id)
    return [row.id for row in tx.rows(running) if _is_tail(tx, row.id)]


def boost(tx: Transaction, step_id: int) -> int:
    """Let the waiting jobs of a step go before all others of their owner, each of them once; how many it lets."""
    waiting = (jobs.c.step_id == step_id, jobs.c.state == JobState.WAITING, jobs.c.priority <= HIGHEST_PRIORITY)
    ids = [row.id for row in tx.rows(select(jobs.c.id).where(*waiting).limit(MOST_LEFT))]
    locked = many_jobs.lock_many(tx, ids)
    still = sorted(i for kind, found in locked.items() if kind.state is JobState.WAITING for i in found)
    for condition in many_jobs.rows_of_waiting(tx, still):
        raised = update(waiting_jobs).where(condition, waiting_jobs.c.descent >= -HIGHEST_PRIORITY)
        tx.run(raised.values(descent=waiting_jobs.c.descent - BOOST))
    boosted = 0
    for condition in many_jobs.among(jobs.c.id, still):
        here = (condition, jobs.c.priority <= HIGHEST_PRIORITY)
        boosted += tx.run(update(jobs).where(*here).values(priority=jobs.c.priority + BOOST))
    return boosted


def _is_tail(tx: Transaction, step_id: int) -> bool:
    left = _count(tx, step_id, UNFINISHED, MOST_LEFT + 1)
    over = OVER_PER_LEFT * left
    return 0 < left <= MOST_LEFT and _count(tx, step_id, JOB_FINAL, over) == over


def _count(tx: Transaction, step_id: int, states: Collection[JobState], most: int) -> int:
    in_them = select(jobs.c.id).where(jobs.c.step_id == step_id, jobs.c.state.in_(states)).limit(most).subquery()
    return int(tx.scalar(select(func.count()).select_from(in_them)))
