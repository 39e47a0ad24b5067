"""Held jobs: no site could run them; when sites change they are received again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select

from pipeline.store import jobs
from pipeline.store.database import CHUNK, Database, Transaction, in_chunks
from pipeline.store.jobs import Change, JobRow
from pipeline.store.steps import Window, next_window
from pipeline.store.tables import campaigns, steps
from pipeline.store.tables import jobs as jobs_table
from schemas.messages import Message
from schemas.states import JobState, StepState

STEPS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Woken:
    """How many jobs were received again, and the messages to publish: a window of each step, as at its release."""

    jobs: int
    messages: Sequence[Message]


def wake_held(database: Database, vo_id: int | None, *, window: int, wake_after: float) -> Woken:
    """Receive the held jobs of a VO (None: of all) again, a chunk at a time."""
    woken: Counter[int] = Counter()
    for some in in_chunks(database.read(partial(_running_steps, vo_id=vo_id)), STEPS_AT_ONCE):
        last = 0
        while found := database.transact(partial(_wake, step_ids=some, after=last)):
            woken.update(job.step_id for job in found)
            last = found[-1].id
    messages: list[Message] = []
    for step_id in sorted(woken):
        messages += database.transact(partial(_open, step_id=step_id, window=window, wake_after=wake_after))
    return Woken(woken.total(), messages)


def _running_steps(tx: Transaction, vo_id: int | None) -> list[int]:
    query = select(steps.c.id).where(steps.c.state == StepState.RUNNING).order_by(steps.c.id)
    if vo_id is not None:
        query = query.join(campaigns, campaigns.c.id == steps.c.campaign_id).where(campaigns.c.vo_id == vo_id)
    return [row.id for row in tx.rows(query)]


def _open(tx: Transaction, step_id: int, window: int, wake_after: float) -> list[Message]:
    return next_window(tx, step_id, Window(window, tx.after(wake_after)))


def _wake(tx: Transaction, step_ids: Sequence[int], after: int) -> list[JobRow]:
    held = (jobs_table.c.step_id.in_(step_ids), jobs_table.c.state == JobState.HELD, jobs_table.c.id > after)
    found = jobs.lock_where(tx, jobs.columns().where(*held).limit(CHUNK))
    jobs.apply(tx, [Change(job, JobState.RECEIVED, "sites changed") for job in found])
    return found
