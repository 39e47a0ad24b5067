"""Cancel and pause go through a campaign's jobs in steps: what a process that died on the way has left."""

from __future__ import annotations

from functools import partial

from sqlalchemy import or_, select

from pipeline.store.database import Database, Transaction
from pipeline.store.many_jobs import Move, lock_many, move_many
from pipeline.store.steps import UNFINISHED, has_job
from pipeline.store.tables import campaigns, steps
from pipeline.store.tables import jobs as jobs_table
from schemas.states import CampaignState, JobState, StepState

JOBS_PER_TRANSACTION = 10_000


def half_cancelled(tx: Transaction) -> list[tuple[int, int]]:
    """(VO, campaign) of cancelled campaigns with jobs that nobody has killed yet."""
    given_up = (jobs_table.c.state == JobState.COMPLETING) & jobs_table.c.dead_letter_id.is_not(None)
    alive = has_job(UNFINISHED, or_(~jobs_table.c.kill_requested, given_up))
    query = select(campaigns.c.vo_id, campaigns.c.id).join(steps, steps.c.campaign_id == campaigns.c.id)
    found = tx.rows(query.where(steps.c.state == StepState.CANCELLED, alive).distinct())
    return sorted((row.vo_id, row.id) for row in found)


def half_paused(tx: Transaction) -> list[int]:
    """Steps of paused campaigns with waiting jobs; an assignment that nobody confirmed makes such jobs, too."""
    query = select(steps.c.id).join(campaigns, campaigns.c.id == steps.c.campaign_id)
    paused = (steps.c.state == StepState.RUNNING, campaigns.c.state == CampaignState.PAUSED)
    return [row.id for row in tx.rows(query.where(*paused, has_job((JobState.WAITING,))).order_by(steps.c.id))]


def withdraw(database: Database, step_id: int) -> None:
    """Let none of a step's jobs wait for a slot, for as long as its campaign is paused."""
    while database.transact(partial(_withdraw, step_id=step_id)):
        pass


def _withdraw(tx: Transaction, step_id: int) -> int:
    campaign_id = tx.scalar(select(steps.c.campaign_id).where(steps.c.id == step_id))
    if not tx.share(
        select(campaigns.c.id).where(campaigns.c.id == campaign_id, campaigns.c.state == CampaignState.PAUSED)
    ):
        return 0
    of_step = (jobs_table.c.step_id == step_id, jobs_table.c.state == JobState.WAITING)
    ids = [row.id for row in tx.rows(select(jobs_table.c.id).where(*of_step).limit(JOBS_PER_TRANSACTION))]
    for kind, found in lock_many(tx, ids).items():
        if kind.state is JobState.WAITING:
            move_many(tx, found, Move(JobState.WAITING, JobState.RECEIVED, "campaign paused"))
    return len(ids)
