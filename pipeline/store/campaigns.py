"""Campaigns: taken in whole or not at all, paused, resumed, cancelled, retried, accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import ColumnElement, delete, func, insert, literal, select, update

from pipeline.errors import BadInput, Conflict
from pipeline.store import half_done, steps
from pipeline.store.database import Contended, Database, Transaction
from pipeline.store.steps import StepRow, Window
from pipeline.store.tables import campaigns, datasets, idempotency_keys, job_events, job_specs, sandboxes
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import steps as steps_table
from schemas.campaign import Campaign, Step
from schemas.messages import Message
from schemas.states import CampaignState, JobState, StepState

JOBS_PER_TRANSACTION = 20_000
ARRIVAL_TIMEOUT = 60
"""Seconds of silence after which a submission that did not finish may be begun again with its key."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What is submitted, by whom."""

    vo_id: int
    owner_id: int
    description: Campaign
    sandboxes: Mapping[str, str]
    """sha256 of the uploaded sandbox, by step, for steps that send files."""
    idempotency_key: str | None
    request_digest: str
    trace: str | None = None
    """The W3C traceparent of whoever submits."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer; `messages` are to be published, and are empty when the submission was a repeated one."""

    campaign_id: int
    jobs: int
    messages: Sequence[Message]
    is_repeated: bool = False


def submit(database: Database, submission: Submission, *, window: int, wake_after: float) -> Submitted:
    """Store a campaign. Until its last transaction nobody sees it.

    Raises BadInput for a sandbox that was not uploaded, Conflict for a key that belongs to another request or
    to one that is still arriving, or that was begun again meanwhile.
    """
    total = sum(step.size() for step in submission.description.steps)
    campaign_id, known = database.transact(lambda tx: _begin(tx, submission))
    if known:
        return Submitted(campaign_id, total, (), is_repeated=True)
    for step_id, spec_id, template in database.transact(lambda tx: _templates(tx, campaign_id)):
        for start in range(0, template.size(), JOBS_PER_TRANSACTION):
            stop = min(start + JOBS_PER_TRANSACTION, template.size())
            array = _Array(submission.vo_id, campaign_id, step_id, spec_id, template.priority)
            database.transact(partial(_add_jobs, submission=submission, array=array, start=start, stop=stop))

    def finish(tx: Transaction) -> list[Message]:
        _go_on(tx, submission, campaign_id)
        steps.set_campaign_state(tx, campaign_id, CampaignState.ARRIVING, CampaignState.RUNNING)
        return steps.settle(tx, campaign_id, Window(window, tx.after(wake_after)))

    messages = [message.model_copy(update={"trace": submission.trace}) for message in database.transact(finish)]
    return Submitted(campaign_id, total, messages)


def resume(database: Database, campaign_id: int, *, window: int, wake_after: float) -> list[Message]:
    """Let a paused campaign go on; the messages to publish. Raises Conflict when it is not paused."""

    def work(tx: Transaction) -> list[Message]:
        state, latest = steps.lock_campaign(tx, campaign_id)
        _require(state, {CampaignState.PAUSED}, campaign_id, "resumed")
        steps.set_campaign_state(tx, campaign_id, state, CampaignState.RUNNING)
        opening = Window(window, tx.after(wake_after))
        messages = steps.settle(tx, campaign_id, opening)
        for step in latest:
            if step.state is StepState.RUNNING:
                messages += steps.next_window(tx, step.id, opening)
        return messages

    return database.transact(work)


def pause(database: Database, campaign_id: int) -> None:
    """Let nothing more of it be matched; what runs goes on. Raises Conflict when it is over or paused."""

    def work(tx: Transaction) -> list[StepRow]:
        state, latest = steps.lock_campaign(tx, campaign_id)
        _require(state, {CampaignState.RUNNING, CampaignState.BLOCKED}, campaign_id, "paused")
        steps.set_campaign_state(tx, campaign_id, state, CampaignState.PAUSED)
        return latest

    for step in database.transact(work):
        half_done.withdraw(database, step.id)


def cancel(database: Database, campaign_id: int) -> None:
    """End a campaign and its steps; the caller kills its jobs. Raises Conflict when it is over."""

    def work(tx: Transaction) -> None:
        state, latest = steps.lock_campaign(tx, campaign_id)
        live = {CampaignState.RUNNING, CampaignState.PAUSED, CampaignState.BLOCKED}
        _require(state, live, campaign_id, "cancelled")
        for step in latest:
            if step.state is not StepState.CLOSED:
                steps.set_state(tx, step, StepState.CANCELLED)
        steps.set_campaign_state(tx, campaign_id, state, CampaignState.CANCELLED)

    database.transact(work)


def accept(database: Database, campaign_id: int, step: str, *, window: int, wake_after: float) -> list[Message]:
    """Close a blocked step as it is; the messages of steps that it releases. Raises Conflict, BadInput."""

    def work(tx: Transaction) -> list[Message]:
        _, latest = steps.lock_campaign(tx, campaign_id)
        found = [row for row in latest if row.name == step]
        if not found:
            raise BadInput(f"campaign {campaign_id} has no step {step!r}; it has {', '.join(r.name for r in latest)}")
        if found[0].state is not StepState.BLOCKED:
            raise Conflict(f"step {step} is {found[0].state}; only a blocked step can be accepted")
        steps.close(tx, found[0])
        return steps.settle(tx, campaign_id, Window(window, tx.after(wake_after)))

    return database.transact(work)


@dataclass(frozen=True, slots=True)
class _Array:
    vo_id: int
    campaign_id: int
    step_id: int
    spec_id: int
    priority: int


def _begin(tx: Transaction, submission: Submission) -> tuple[int, bool]:
    known = _repeated(tx, submission)
    if known is not None:
        return known, True
    _check_sandboxes(tx, submission)
    description = submission.description
    campaign_id = tx.add(
        campaigns,
        vo_id=submission.vo_id,
        owner_id=submission.owner_id,
        name=description.campaign,
        state=CampaignState.ARRIVING,
        created_at=tx.now,
        trace=submission.trace,
    )
    for position, template in enumerate(description.steps):
        _add_step(tx, submission, campaign_id, position, template)
    _claim_key(tx, submission, campaign_id)
    return campaign_id, False


def _claim_key(tx: Transaction, submission: Submission, campaign_id: int) -> None:
    if submission.idempotency_key is None:
        return
    row = {
        "owner_id": submission.owner_id,
        "idempotency_key": submission.idempotency_key,
        "request_digest": submission.request_digest,
        "campaign_id": campaign_id,
        "created_at": tx.now,
    }
    if not tx.add_missing(idempotency_keys, [row]):
        raise Contended(f"the Idempotency-Key {submission.idempotency_key!r} came twice at once")


def _repeated(tx: Transaction, submission: Submission) -> int | None:
    rows = tx.lock(
        select(idempotency_keys.c.request_digest, idempotency_keys.c.created_at, campaigns.c.id, campaigns.c.state)
        .join(campaigns, campaigns.c.id == idempotency_keys.c.campaign_id)
        .where(*_key_of(submission))
    )
    if submission.idempotency_key is None or not rows:
        return None
    (row,) = rows
    if row.request_digest != submission.request_digest:
        raise Conflict(f"the Idempotency-Key {submission.idempotency_key!r} belongs to another request; use a new one")
    if row.state != CampaignState.ARRIVING:
        return int(row.id)
    if (tx.now - row.created_at).total_seconds() < ARRIVAL_TIMEOUT:
        raise Conflict(f"campaign {row.id} of this Idempotency-Key is still arriving; ask again in a minute")
    tx.run(delete(idempotency_keys).where(*_key_of(submission)))  # what has arrived is left to retention
    return None


def _go_on(tx: Transaction, submission: Submission, campaign_id: int) -> None:
    """Say that the submission is not silent. Raises Conflict when it was for so long that another has its key."""
    if submission.idempotency_key is None:
        return
    mine = (*_key_of(submission), idempotency_keys.c.campaign_id == campaign_id)
    if not tx.run(update(idempotency_keys).where(*mine).values(created_at=tx.now)):
        raise Conflict(
            f"the submission with Idempotency-Key {submission.idempotency_key!r} took too long and was begun again; "
            "ask with the same key how that one went"
        )


def _key_of(submission: Submission) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (
        idempotency_keys.c.owner_id == submission.owner_id,
        idempotency_keys.c.idempotency_key == submission.idempotency_key,
    )


def _check_sandboxes(tx: Transaction, submission: Submission) -> None:
    named = {step.name for step in submission.description.steps if step.sandbox}
    if named != set(submission.sandboxes):
        raise BadInput(f"sandboxes are given for {sorted(submission.sandboxes)}, wanted for {sorted(named)}")
    query = select(sandboxes.c.digest).where(
        sandboxes.c.vo_id == submission.vo_id, sandboxes.c.digest.in_(submission.sandboxes.values())
    )
    there = {row.digest for row in tx.share(query)}  # retention may not take it from under us
    for step, digest in submission.sandboxes.items():
        if digest not in there:
            raise BadInput(f"step {step}: its sandbox {digest} was not uploaded", field=f"sandboxes.{step}")


def _add_step(tx: Transaction, submission: Submission, campaign_id: int, position: int, template: Step) -> None:
    step_id = tx.add(
        steps_table,
        campaign_id=campaign_id,
        name=template.name,
        version=1,
        position=position,
        state=StepState.OPEN,
        after=list(template.after),
        min_success=template.min_success,
        verify=template.verify,
    )
    sandbox = submission.sandboxes.get(template.name)
    tx.add(job_specs, step_id=step_id, template=template.model_dump_json(), sandbox=sandbox)
    add_dataset(tx, submission.vo_id, step_id, f"{campaign_id}/{template.name}/v1")


def vo_of(tx: Transaction, campaign_id: int) -> int:
    """The VO that a campaign belongs to."""
    return int(tx.scalar(select(campaigns.c.vo_id).where(campaigns.c.id == campaign_id)))


def add_dataset(tx: Transaction, vo_id: int, step_id: int, name: str) -> None:
    """The dataset that will hold the registered outputs of one version of a step."""
    tx.add(datasets, vo_id=vo_id, step_id=step_id, name=name, state="open")


def _templates(tx: Transaction, campaign_id: int) -> list[tuple[int, int, Step]]:
    query = (
        select(steps_table.c.id, job_specs.c.id.label("spec_id"), job_specs.c.template)
        .join(job_specs, job_specs.c.step_id == steps_table.c.id)
        .where(steps_table.c.campaign_id == campaign_id)
        .order_by(steps_table.c.position)
    )
    return [(row.id, row.spec_id, Step.model_validate_json(row.template)) for row in tx.rows(query)]


def _add_jobs(tx: Transaction, submission: Submission, array: _Array, start: int, stop: int) -> None:
    _go_on(tx, submission, array.campaign_id)
    of_step = (jobs_table.c.step_id == array.step_id, jobs_table.c.state == JobState.RECEIVED)
    unpublished = (*of_step, jobs_table.c.wake_at.is_(None))
    last = tx.scalar(select(func.max(jobs_table.c.id)).where(*unpublished)) or 0
    arrived_before = tx.scalar(select(jobs_table.c.array_index).where(jobs_table.c.id == last))
    if arrived_before is not None and arrived_before >= start:
        return  # run again after a commit that had succeeded, though its answer was lost
    row = {
        "vo_id": array.vo_id,
        "campaign_id": array.campaign_id,
        "step_id": array.step_id,
        "spec_id": array.spec_id,
        "state": JobState.RECEIVED,
        "priority": array.priority,
        "created_at": tx.now,
        "changed_at": tx.now,
    }
    tx.add_all(jobs_table, [{**row, "array_index": index} for index in range(start, stop)])
    arrived = select(
        jobs_table.c.id, literal(0), literal(JobState.RECEIVED.value), literal(tx.now, jobs_table.c.created_at.type)
    ).where(*unpublished, jobs_table.c.id > last)
    tx.run(insert(job_events).from_select(["job_id", "attempt", "to_state", "at"], arrived))


def _require(state: CampaignState, wanted: set[CampaignState], campaign_id: int, word: str) -> None:
    if state not in wanted:
        raise Conflict(f"campaign {campaign_id} is {state}; it can be {word} only when {', '.join(sorted(wanted))}")
