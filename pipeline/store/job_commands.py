"""Kill and retry, by filter and set-based, a bounded transaction at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Select, select

from pipeline.store import campaigns, jobs, many_jobs, steps
from pipeline.store.database import Contended, Database, Transaction, in_chunks
from pipeline.store.jobs import Change
from pipeline.store.many_jobs import Kind, Move
from pipeline.store.steps import StepRow, Window
from pipeline.store.tables import campaigns as campaigns_table
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import sites
from pipeline.store.tables import steps as steps_table
from schemas.messages import Message, StepsDue, about_ids
from schemas.states import JOB_ON_PILOT, CampaignState, JobState, StepState

JOBS_PER_TRANSACTION = 10_000
JOBS_PER_PAGE = 100_000
"""Ids read at a time: each reading goes through all jobs of the steps that are meant."""
_KILLED = "killed on request"
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

    def add(self, more: Counted) -> None:
        """Count what a further transaction did."""
        self.changed += more.changed
        self.requested += more.requested
        self.messages += more.messages
        self.step_ids |= more.step_ids


def kill(database: Database, vo_id: int, chosen: JobFilter) -> Counted:
    """Kill every job that the filter means and that is not over; `failed` ones become killed too."""
    killable = tuple(state for state in JobState if state not in {JobState.DONE, JobState.KILLED})
    counted = _by_chunks(database, vo_id, chosen, killable, _kill)
    counted.messages += database.read(lambda tx: _ended(tx, counted.step_ids))
    return counted


def retry(database: Database, vo_id: int, chosen: JobFilter, *, window: int, wake_after: float) -> Counted:
    """Receive every failed job that the filter means again, its budgets fresh.

    A blocked step runs again; a closed one gets a new version that holds the retried jobs.
    """
    counted = _by_chunks(database, vo_id, chosen, (JobState.FAILED,), _retry)
    counted.messages += database.transact(lambda tx: _reopen(tx, counted.step_ids, window, wake_after))
    return counted


def _by_chunks(
    database: Database, vo_id: int, chosen: JobFilter, states: Iterable[JobState], work: Callable[..., Counted]
) -> Counted:
    """`work` on ids that were read beforehand, many at a time: it locks and judges the jobs as they are by then."""
    counted = Counted()
    last = 0
    while True:
        query = chosen.narrow(select(jobs_table.c.id), vo_id)
        ids = database.read(partial(_page, query=query, states=states, last=last))
        for chunk in in_chunks(ids, JOBS_PER_TRANSACTION):
            counted.add(database.transact(partial(work, ids=chunk)))
        if len(ids) < JOBS_PER_PAGE:
            return counted
        last = ids[-1]


def _page(tx: Transaction, query: Select[tuple[int]], states: Iterable[JobState], last: int) -> list[int]:
    query = query.where(jobs_table.c.id > last, jobs_table.c.state.in_(states))
    return [row.id for row in tx.rows(query.order_by(jobs_table.c.id).limit(JOBS_PER_PAGE))]


def _kill(tx: Transaction, ids: Sequence[int]) -> Counted:
    counted = Counted()
    on_pilot: list[int] = []
    for kind, found in many_jobs.lock_many(tx, ids).items():
        if kind.state in {JobState.DONE, JobState.KILLED}:
            continue
        if kind.state in JOB_ON_PILOT and not _is_given_up(kind):
            on_pilot += found
            continue
        if kind.state in JOB_ON_PILOT:
            jobs.apply(tx, [Change(job, JobState.KILLED, _KILLED) for job in jobs.lock(tx, found)])
        else:
            many_jobs.move_many(tx, found, Move(kind.state, JobState.KILLED, _KILLED))
        counted.add(Counted(changed=len(found), step_ids={kind.step_id}))
    jobs.request_kill(tx, jobs.lock(tx, on_pilot))
    counted.requested = len(on_pilot)
    return counted


def _is_given_up(kind: Kind) -> bool:
    """Completing jobs whose check is a dead letter: their pilots have reported, so nobody else will kill them."""
    return kind.state is JobState.COMPLETING and kind.is_stamped


def _ended(tx: Transaction, step_ids: set[int]) -> list[Message]:
    """Asked after the commits: of two transactions that end a step's last two jobs, the later one must see both."""
    return about_ids(StepsDue, steps.ended_steps(tx, step_ids), now=tx.now)


def _retry(tx: Transaction, ids: Sequence[int]) -> Counted:
    step_names = _step_names(tx, ids)
    campaign_ids = steps.campaigns_of(tx, step_names)
    of_campaign = {campaign_id: steps.lock_campaign(tx, campaign_id) for campaign_id in campaign_ids}
    failed: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for kind, found in many_jobs.lock_many(tx, ids).items():
        if kind.step_id not in step_names:
            raise Contended(f"jobs of campaign {kind.campaign_id} came to the step {kind.step_id} under our eyes")
        if kind.state is JobState.FAILED and of_campaign[kind.campaign_id][0] is not CampaignState.CANCELLED:
            failed[kind.campaign_id, step_names[kind.step_id]] += found
    counted = Counted()
    for (campaign_id, name), found in sorted(failed.items()):
        for step in of_campaign[campaign_id][1]:
            if step.name == name and step.state is not StepState.CANCELLED:
                counted.add(Counted(changed=len(found), step_ids={_retry_in_step(tx, step, found)}))
    return counted


def _reopen(tx: Transaction, step_ids: set[int], window: int, wake_after: float) -> list[Message]:
    """One window for each step, however many of its jobs are retried; campaigns follow their steps."""
    opening = Window(window, tx.after(wake_after))
    messages: list[Message] = []
    for campaign_id in steps.campaigns_of(tx, step_ids):
        messages += steps.settle(tx, campaign_id, opening)
    for step_id in sorted(step_ids):
        messages += steps.next_window(tx, step_id, opening)
    return messages


def _retry_in_step(tx: Transaction, step: StepRow, ids: Sequence[int]) -> int:
    step_id = step.id
    if step.state is StepState.BLOCKED:
        steps.set_state(tx, step, StepState.RUNNING)
    if step.state is StepState.CLOSED:
        step_id = _new_version(tx, step)
    values = (*_FRESH, ("step_id", step_id))  # some may be of an earlier version
    many_jobs.move_many(tx, ids, Move(JobState.FAILED, JobState.RECEIVED, "retried by hand", values))
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
    """Read before the campaigns are locked, and they before the jobs: a job changes its step under both alone."""
    step_ids: set[int] = set()
    for condition in many_jobs.among(jobs_table.c.id, job_ids):
        step_ids |= {row.step_id for row in tx.rows(select(jobs_table.c.step_id).where(condition).distinct())}
    rows = tx.rows(select(steps_table.c.id, steps_table.c.name).where(steps_table.c.id.in_(step_ids)))
    return {row.id: row.name for row in rows}
