"""Kill and retry, by filter and set-based, a bounded transaction at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Select, select, update

from pipeline.store import campaigns, jobs, steps
from pipeline.store.database import Database, Transaction, in_chunks
from pipeline.store.jobs import Change, JobRow
from pipeline.store.steps import StepRow, Window
from pipeline.store.tables import campaigns as campaigns_table
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import sites
from pipeline.store.tables import steps as steps_table
from schemas.messages import Message, StepsDue, about_ids
from schemas.states import JOB_ON_PILOT, CampaignState, JobState, StepState

JOBS_PER_TRANSACTION = 5_000
_FRESH = (
    ("infrastructure_losses", 0),
    ("payload_failures", 0),
    ("kill_requested", False),
    ("exit_code", None),
)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a VO are meant; conditions that are None (or empty) do not narrow."""

    ids: tuple[int, ...] = ()
    campaign_id: int | None = None
    step: str | None = None
    states: tuple[JobState, ...] = ()
    site: str | None = None
    owner_id: int | None = None

    def narrow(self, query: Select[tuple[int]], vo_id: int) -> Select[tuple[int]]:
        """`query`, a selection from jobs, narrowed to these jobs of the VO."""
        query = query.where(jobs_table.c.vo_id == vo_id)
        if self.ids:
            query = query.where(jobs_table.c.id.in_(self.ids))
        if self.states:
            query = query.where(jobs_table.c.state.in_(self.states))
        if self.site is not None:
            query = query.where(jobs_table.c.site_id.in_(select(sites.c.id).where(sites.c.name == self.site)))
        if self.owner_id is not None:
            owned = select(steps_table.c.id).join(campaigns_table, campaigns_table.c.id == steps_table.c.campaign_id)
            query = query.where(jobs_table.c.step_id.in_(owned.where(campaigns_table.c.owner_id == self.owner_id)))
        if self.campaign_id is not None or self.step is not None:
            of_steps = select(steps_table.c.id)
            if self.campaign_id is not None:
                of_steps = of_steps.where(steps_table.c.campaign_id == self.campaign_id)
            if self.step is not None:
                of_steps = of_steps.where(steps_table.c.name == self.step)
            query = query.where(jobs_table.c.step_id.in_(of_steps))
        return query


@dataclass(slots=True)
class Counted:
    """What a command did: jobs changed at once, jobs whose pilot must confirm first, messages to publish.

    `step_ids` are the steps of the jobs that changed."""

    changed: int = 0
    requested: int = 0
    messages: list[Message] = field(default_factory=list)
    step_ids: set[int] = field(default_factory=set)


def kill(database: Database, vo_id: int, chosen: JobFilter) -> Counted:
    """Kill every job that the filter means and that is not over; `failed` ones become killed too."""
    counted = Counted()
    killable = tuple(state for state in JobState if state not in {JobState.DONE, JobState.KILLED})
    _by_chunks(database, vo_id, chosen, killable, partial(_kill, counted=counted))
    counted.messages += database.read(lambda tx: _ended(tx, counted.step_ids))
    return counted


def retry(database: Database, vo_id: int, chosen: JobFilter, *, window: int, wake_after: float) -> Counted:
    """Receive every failed job that the filter means again, its budgets fresh.

    A blocked step runs again; a closed one gets a new version that holds the retried jobs.
    """
    counted = Counted()
    _by_chunks(database, vo_id, chosen, (JobState.FAILED,), partial(_retry, counted=counted))
    counted.messages += database.transact(lambda tx: _reopen(tx, counted.step_ids, window, wake_after))
    return counted


def _by_chunks(
    database: Database,
    vo_id: int,
    chosen: JobFilter,
    states: Iterable[JobState],
    work: Callable[[Transaction, Sequence[int]], Callable[[], None]],
) -> None:
    last = 0
    while True:

        def one(tx: Transaction, after: int = last) -> tuple[list[int], Callable[[], None]]:
            query = chosen.narrow(select(jobs_table.c.id), vo_id)
            query = query.where(jobs_table.c.id > after, jobs_table.c.state.in_(states))
            ids = [row.id for row in tx.rows(query.order_by(jobs_table.c.id).limit(JOBS_PER_TRANSACTION))]
            return ids, work(tx, ids)

        ids, count = database.transact(one)
        count()
        if len(ids) < JOBS_PER_TRANSACTION:
            return
        last = ids[-1]


def _kill(tx: Transaction, ids: Sequence[int], counted: Counted) -> Callable[[], None]:
    found = jobs.lock(tx, ids)
    given_up = _given_up(tx, found)
    on_pilot = [job for job in found if job.state in JOB_ON_PILOT and job.id not in given_up]
    over = {JobState.DONE, JobState.KILLED}
    at_once = [job for job in found if job.id in given_up or job.state not in JOB_ON_PILOT | over]
    jobs.request_kill(tx, on_pilot)
    jobs.apply(tx, [Change(job, JobState.KILLED, "killed on request") for job in at_once])

    def count() -> None:
        counted.changed += len(at_once)
        counted.requested += len(on_pilot)
        counted.step_ids |= {job.step_id for job in at_once}

    return count


def _ended(tx: Transaction, step_ids: set[int]) -> list[Message]:
    """Asked after the commits: of two transactions that end a step's last two jobs, the later one must see both."""
    return about_ids(StepsDue, steps.ended_steps(tx, step_ids), now=tx.now)


def _given_up(tx: Transaction, found: Sequence[JobRow]) -> set[int]:
    """Completing jobs whose check is a dead letter: their pilots have reported, so nobody else will kill them."""
    completing = [job.id for job in found if job.state is JobState.COMPLETING]
    given_up: set[int] = set()
    for chunk in in_chunks(completing):
        stamped = (jobs_table.c.id.in_(chunk), jobs_table.c.dead_letter_id.is_not(None))
        given_up |= {row.id for row in tx.rows(select(jobs_table.c.id).where(*stamped))}
    return given_up


def _retry(tx: Transaction, ids: Sequence[int], counted: Counted) -> Callable[[], None]:
    step_names = _step_names(tx, ids)
    step_ids: set[int] = set()
    changed = 0
    for campaign_id in steps.campaigns_of(tx, step_names):
        state, latest = steps.lock_campaign(tx, campaign_id)
        if state is CampaignState.CANCELLED:
            continue
        by_name = {step.name: step for step in latest if step.state is not StepState.CANCELLED}
        found = [job for job in jobs.lock(tx, ids) if job.state is JobState.FAILED and job.campaign_id == campaign_id]
        for name in sorted({step_names[job.step_id] for job in found} & set(by_name)):
            mine = [job for job in found if step_names[job.step_id] == name]
            step_ids.add(_retry_in_step(tx, by_name[name], mine))
            changed += len(mine)

    def count() -> None:
        counted.changed += changed
        counted.step_ids |= step_ids

    return count


def _reopen(tx: Transaction, step_ids: set[int], window: int, wake_after: float) -> list[Message]:
    """One window for each step, however many of its jobs are retried; campaigns follow their steps."""
    opening = Window(window, tx.after(wake_after))
    messages: list[Message] = []
    for campaign_id in steps.campaigns_of(tx, step_ids):
        messages += steps.settle(tx, campaign_id, opening)
    for step_id in sorted(step_ids):
        messages += steps.next_window(tx, step_id, opening)
    return messages


def _retry_in_step(tx: Transaction, step: StepRow, found: Sequence[JobRow]) -> int:
    step_id = step.id
    if step.state is StepState.BLOCKED:
        steps.set_state(tx, step, StepState.RUNNING)
    if step.state is StepState.CLOSED:
        step_id = _new_version(tx, step)
    of_earlier_versions = [job.id for job in found if job.step_id != step_id]
    if of_earlier_versions:
        tx.run(update(jobs_table).where(jobs_table.c.id.in_(of_earlier_versions)).values(step_id=step_id))
    jobs.apply(tx, [Change(job, JobState.RECEIVED, "retried by hand", values=_FRESH) for job in found])
    return step_id


def _new_version(tx: Transaction, step: StepRow) -> int:
    step_id = tx.add(
        steps_table,
        campaign_id=step.campaign_id,
        name=step.name,
        version=step.version + 1,
        position=step.position,
        state=StepState.RUNNING,
        after=list(step.after),
        min_success=step.min_success,
        verify=step.verify,
    )
    vo_id = campaigns.vo_of(tx, step.campaign_id)
    campaigns.add_dataset(tx, vo_id, step_id, f"{step.campaign_id}/{step.name}/v{step.version + 1}")
    return step_id


def _step_names(tx: Transaction, job_ids: Sequence[int]) -> dict[int, str]:
    step_ids = select(jobs_table.c.step_id).where(jobs_table.c.id.in_(job_ids))
    rows = tx.rows(select(steps_table.c.id, steps_table.c.name).where(steps_table.c.id.in_(step_ids)))
    return {row.id: row.name for row in rows}
