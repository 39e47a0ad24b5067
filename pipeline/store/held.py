"""Held jobs: no site could run them; when sites change they are received again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import select

from pipeline.store import jobs
from pipeline.store.database import CHUNK, Database, Transaction, in_chunks
from pipeline.store.jobs import Change
from pipeline.store.tables import campaigns, steps
from pipeline.store.tables import jobs as jobs_table
from schemas.messages import JobsReceived, Message, about_ids
from schemas.states import JobState, StepState

STEPS_AT_ONCE = 200


def wake_held(database: Database, vo_id: int | None, *, wake_after: float) -> list[Message]:
    """Receive the held jobs of a VO (None: of all) again, a chunk at a time; the messages to publish."""
    messages: list[Message] = []
    step_ids = database.transact(partial(_running_steps, vo_id=vo_id))
    for some in in_chunks(step_ids, STEPS_AT_ONCE):
        while woken := database.transact(partial(_wake, step_ids=some, wake_after=wake_after)):
            messages += woken
    return messages


def _running_steps(tx: Transaction, vo_id: int | None) -> list[int]:
    query = select(steps.c.id).where(steps.c.state == StepState.RUNNING).order_by(steps.c.id)
    if vo_id is not None:
        query = query.join(campaigns, campaigns.c.id == steps.c.campaign_id).where(campaigns.c.vo_id == vo_id)
    return [row.id for row in tx.rows(query)]


def _wake(tx: Transaction, step_ids: Sequence[int], wake_after: float) -> list[Message]:
    held = jobs.columns().where(jobs_table.c.step_id.in_(step_ids), jobs_table.c.state == JobState.HELD)
    found = jobs.lock_where(tx, held.limit(CHUNK))
    wake_at = tx.after(wake_after)
    jobs.apply(tx, [Change(job, JobState.RECEIVED, "sites changed", wake_at=wake_at) for job in found])
    return about_ids(JobsReceived, [job.id for job in found], now=tx.now)
