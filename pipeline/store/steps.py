"""Steps: released when those before them have closed, closed once, blocked below their minimum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select, update
from structlog import get_logger

from pipeline.store import jobs
from pipeline.store.database import Contended, Transaction
from pipeline.store.tables import campaigns, datasets, steps
from pipeline.store.tables import jobs as jobs_table
from schemas.messages import JobsReceived, Message, about_ids
from schemas.states import CAMPAIGN_TRANSITIONS, JOB_FINAL, STEP_TRANSITIONS, CampaignState, JobState, StepState

_log = get_logger("campaigns")

JOBS_PER_MESSAGE = 25
"""Jobs in a message of a window: so few that ten jobs of another campaign wait for a hundred of these at the most.

Messages of a window that are in the queue together are taken as one batch, so that small ones cost little; several
consumers share them."""
UNFINISHED = tuple(state for state in JobState if state not in JOB_FINAL)


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step as read under lock."""

    id: int
    campaign_id: int
    name: str
    version: int
    position: int
    state: StepState
    after: tuple[str, ...]
    min_success: float
    verify: str


_COLUMNS = tuple(steps.c[name] for name in StepRow.__slots__)


@dataclass(frozen=True, slots=True)
class Window:
    """How many jobs of a step may be in messages at a time, and until when they are not looked at again."""

    messages: int
    wake_at: datetime


def lock_campaign(tx: Transaction, campaign_id: int) -> tuple[CampaignState, list[StepRow]]:
    """A campaign's state and the latest version of each of its steps, all locked, the campaign first."""
    (row,) = tx.lock(select(campaigns.c.state).where(campaigns.c.id == campaign_id))
    found = [_row(r) for r in tx.lock(select(*_COLUMNS).where(steps.c.campaign_id == campaign_id).order_by(steps.c.id))]
    latest: dict[str, StepRow] = {}
    for step in found:
        if step.name not in latest or step.version > latest[step.name].version:
            latest[step.name] = step
    return CampaignState(row.state), sorted(latest.values(), key=lambda step: step.position)


def campaigns_of(tx: Transaction, step_ids: Iterable[int]) -> list[int]:
    """The campaigns that these steps belong to, in the order in which they are to be locked."""
    query = select(steps.c.campaign_id).where(steps.c.id.in_(set(step_ids))).distinct()
    return sorted(row.campaign_id for row in tx.rows(query))


def ended_steps(tx: Transaction, step_ids: Iterable[int]) -> list[int]:
    """Those of the steps that are running and have no unfinished job left."""
    return _without_unfinished(tx, steps.c.id.in_(set(step_ids)))


def all_ended_steps(tx: Transaction) -> list[int]:
    """Every running step that has no unfinished job left and that reconcile may touch."""
    return _without_unfinished(tx, steps.c.dead_letter_id.is_(None))


def starved_steps(tx: Transaction) -> list[int]:
    """Running steps of running campaigns with unpublished jobs and none in a message: their window was lost.

    A job that cools off is in no message; those that come back from there have lost something before.
    """
    received = (JobState.RECEIVED,)
    unpublished = has_job(received, jobs_table.c.wake_at.is_(None), jobs_table.c.dead_letter_id.is_(None))
    published = has_job(
        received,
        jobs_table.c.wake_at.is_not(None),
        jobs_table.c.infrastructure_losses == 0,
        jobs_table.c.payload_failures == 0,
    )
    query = (
        select(steps.c.id)
        .join(campaigns, campaigns.c.id == steps.c.campaign_id)
        .where(
            steps.c.state == StepState.RUNNING,
            campaigns.c.state == CampaignState.RUNNING,
            unpublished,
            ~published,
        )
    )
    return [row.id for row in tx.rows(query)]


def has_job(states: Iterable[JobState], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the step that a query is at has a job in one of these states that meets the conditions.

    One look at the index for each state. Of EXISTS, MariaDB makes a reading of the jobs of all steps, or of all jobs
    of the step: measured, seconds where this takes none.
    """
    of_step = select(jobs_table.c.id).where(jobs_table.c.step_id == steps.c.id, *conditions).correlate(steps)
    looks = [of_step.where(jobs_table.c.state == state).limit(1).scalar_subquery() for state in states]
    return or_(*(look.is_not(None) for look in looks))


def job_counts(tx: Transaction, step_id: int) -> Mapping[JobState, int]:
    """How many jobs of a step are in each state that occurs."""
    query = (
        select(jobs_table.c.state, func.count().label("many"))
        .where(jobs_table.c.step_id == step_id)
        .group_by(jobs_table.c.state)
    )
    return {JobState(row.state): row.many for row in tx.rows(query)}


def set_state(tx: Transaction, step: StepRow, to: StepState) -> None:
    """Move one locked step. Raises ValueError for a transition that the table forbids."""
    if to not in STEP_TRANSITIONS[step.state]:
        raise ValueError(f"step {step.id} may not go from {step.state} to {to}")
    ended_at = tx.now if to in {StepState.CLOSED, StepState.CANCELLED} else None
    guard = (steps.c.id == step.id, steps.c.state == step.state)
    changed = update(steps).where(*guard).values(state=to, ended_at=ended_at, wake_at=None, dead_letter_id=None)
    if tx.run(changed) != 1:
        raise Contended(f"step {step.id} left {step.state} under our lock")
    tx.tell(_log.info, f"step_{to}", step_id=step.id, campaign_id=step.campaign_id, from_state=step.state.value)


def close(tx: Transaction, step: StepRow) -> None:
    """Close one locked step and its dataset."""
    set_state(tx, step, StepState.CLOSED)
    tx.run(update(datasets).where(datasets.c.step_id == step.id).values(state="closed"))


def release(tx: Transaction, step: StepRow, window: Window) -> list[Message]:
    """Let a step run; the messages of its first window."""
    set_state(tx, step, StepState.RUNNING)
    return next_window(tx, step.id, window)


def next_window(tx: Transaction, step_id: int, window: Window) -> list[Message]:
    """Claim the next jobs of a step that no message names; the messages to publish after the commit."""
    ids = jobs.claim_received(tx, step_id, window.messages * JOBS_PER_MESSAGE, window.wake_at)
    return received_messages(tx, ids)


def received_messages(tx: Transaction, ids: Sequence[int]) -> list[Message]:
    """The messages about claimed jobs, in the size of a window's."""
    return about_ids(JobsReceived, ids, now=tx.now, size=JOBS_PER_MESSAGE)


def set_campaign_state(tx: Transaction, campaign_id: int, state: CampaignState, to: CampaignState) -> None:
    """Move one locked campaign. Raises ValueError for a transition that the table forbids."""
    if to not in CAMPAIGN_TRANSITIONS[state]:
        raise ValueError(f"campaign {campaign_id} may not go from {state} to {to}")
    ended_at = tx.now if to in {CampaignState.DONE, CampaignState.CANCELLED} else None
    tx.run(update(campaigns).where(campaigns.c.id == campaign_id).values(state=to, ended_at=ended_at))
    tx.tell(_log.info, f"campaign_{to}", campaign_id=campaign_id, from_state=state.value)


def settle(tx: Transaction, campaign_id: int, window: Window) -> list[Message]:
    """After steps changed: release those whose predecessors have closed, and let the campaign's state follow.

    Returns the messages of released steps.
    """
    state, latest = lock_campaign(tx, campaign_id)
    if state in {CampaignState.CANCELLED, CampaignState.ARRIVING}:
        return []
    now_in = {step.name: step.state for step in latest}
    messages: list[Message] = []
    for step in latest:
        if step.state is StepState.OPEN and all(now_in[name] is StepState.CLOSED for name in step.after):
            messages += release(tx, step, window)
            now_in[step.name] = StepState.RUNNING
    _follow(tx, campaign_id, state, set(now_in.values()))
    return messages


def _follow(tx: Transaction, campaign_id: int, state: CampaignState, of_steps: set[StepState]) -> None:
    if of_steps == {StepState.CLOSED}:
        wanted = CampaignState.DONE
    elif StepState.BLOCKED in of_steps and StepState.RUNNING not in of_steps:
        wanted = CampaignState.BLOCKED
    else:
        wanted = CampaignState.RUNNING
    if wanted is not state and not (state is CampaignState.PAUSED and wanted is not CampaignState.DONE):
        set_campaign_state(tx, campaign_id, state, wanted)


def _without_unfinished(tx: Transaction, condition: Any) -> list[int]:
    ended = (condition, steps.c.state == StepState.RUNNING, ~has_job(UNFINISHED))
    query = select(steps.c.id).where(*ended).order_by(steps.c.id)
    return [row.id for row in tx.rows(query)]


def _row(row: Row[Any]) -> StepRow:
    values = row._asdict()
    return StepRow(**{**values, "state": StepState(values["state"]), "after": tuple(values["after"])})
