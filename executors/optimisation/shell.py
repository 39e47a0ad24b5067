"""The optimisation executor: one transaction per batch, the ids of all of its messages together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from executors.optimisation.chain import Candidate, Failed, Held, Killed, Optimiser, load_chain, narrowed
from executors.optimisation.decide import Asleep, Decision, decide, due, wanted_facts
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import autoclusters, jobs, optimisation, specs
from pipeline.store.autoclusters import Bucket, Key
from pipeline.store.database import Transaction
from pipeline.store.jobs import Change, JobRow
from pipeline.store.steps import ended_steps, received_messages
from schemas.messages import JobsWaiting, Message, StepsDue, about_ids
from schemas.outcomes import Done, Outcome
from schemas.requirements import Requirement
from schemas.states import JOB_FINAL, JobState

_ENDS: Mapping[type[Decision], JobState] = {Held: JobState.HELD, Failed: JobState.FAILED, Killed: JobState.KILLED}


@dataclass(frozen=True, slots=True)
class _Result:
    """What is to be told after the commit: messages, and the autoclusters (of these VOs) that have waiting jobs."""

    messages: tuple[Message, ...]
    autocluster_ids: frozenset[int]
    vo_ids: frozenset[int]


def execute(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """One outcome per message; the follow-ups of the whole batch go with its last one."""
    ids = sorted({job_id for message in messages for job_id in message.body.ids()})
    chain = load_chain(context.settings.optimisers)
    result = context.database.transact(partial(_optimise, ids=ids, chain=chain, settings=context.settings))
    follow_ups = (*_news(context, result), *result.messages)
    return [*(Done() for _ in messages[1:]), Done(follow_ups)]


def _optimise(tx: Transaction, ids: Sequence[int], chain: Sequence[Optimiser], settings: Settings) -> _Result:
    found = jobs.lock(tx, ids)
    running_steps = optimisation.running_steps(tx, {job.step_id for job in found})
    judged = due(found, running_steps)
    templates = specs.load(tx, {job.spec_id for job in judged})
    facts = optimisation.read_facts(tx, wanted_facts(judged, templates), margin=settings.pilot_margin)
    decisions = decide(chain, facts, found, templates, running_steps)
    changes = [*_waiting(tx, decisions), *_ended(decisions)]
    jobs.apply(tx, changes)
    jobs.set_wake_at(tx, [job.id for job, decision in decisions if isinstance(decision, Asleep)], None)
    return _Result(
        messages=tuple(_follow_ups(tx, judged, changes, settings)),
        autocluster_ids=_autoclusters(found, changes),
        vo_ids=frozenset(job.vo_id for job in found),
    )


def _waiting(tx: Transaction, decisions: Sequence[tuple[JobRow, Decision]]) -> list[Change]:
    going_on = [decision for _, decision in decisions if isinstance(decision, Candidate)]
    kinds = {(c.job.vo_id, c.spec.id, c.sites): c for c in going_on}
    wanted: dict[Key, Requirement] = {}
    key_of: dict[tuple[int, int, frozenset[str] | None], Key] = {}
    for kind, candidate in kinds.items():
        requirement = _requirement(candidate)
        key = (requirement.signature(), _bucket(candidate))
        wanted[key] = requirement
        key_of[kind] = key
    cluster_ids = autoclusters.ensure(tx, wanted)
    values = {
        kind: (("autocluster_id", cluster_ids[key_of[kind]]), ("priority", candidate.spec.template.priority))
        for kind, candidate in kinds.items()
    }
    return [Change(c.job, JobState.WAITING, values=values[c.job.vo_id, c.spec.id, c.sites]) for c in going_on]


def _requirement(candidate: Candidate) -> Requirement:
    own = candidate.spec.template.requirements
    if candidate.sites is None:
        return own
    requirement = narrowed(own, candidate.sites)
    if requirement is None:
        raise ValueError(f"job {candidate.job.id} left the optimiser chain without a site; `placement` must be in it")
    return requirement


def _bucket(candidate: Candidate) -> Bucket:
    spec = candidate.spec
    return Bucket(candidate.job.vo_id, spec.group_id, spec.owner_id, spec.template.job_type)


def _ended(decisions: Sequence[tuple[JobRow, Decision]]) -> list[Change]:
    return [
        Change(job, _ENDS[type(decision)], decision.reason)
        for job, decision in decisions
        if isinstance(decision, Held | Failed | Killed)
    ]


def _follow_ups(
    tx: Transaction, judged: Sequence[JobRow], changes: Sequence[Change], settings: Settings
) -> Iterator[Message]:
    """Steps that may have ended; and as many new jobs of each step as have moved on, so that its window stays full."""
    over = {change.job.step_id for change in changes if change.to in JOB_FINAL}
    if over:
        yield from about_ids(StepsDue, ended_steps(tx, over), now=tx.now)
    wake_at = tx.after(settings.wake_after * 2)
    claimed: list[int] = []
    for step_id, moved_on in sorted(Counter(job.step_id for job in judged).items()):
        claimed += jobs.claim_received(tx, step_id, moved_on, wake_at)
    yield from received_messages(tx, claimed)


def _autoclusters(found: Sequence[JobRow], changes: Sequence[Change]) -> frozenset[int]:
    """Those that jobs have joined now, or before a crash that lost the news of it."""
    joined = {dict(change.values)["autocluster_id"] for change in changes if change.to is JobState.WAITING}
    before = {job.autocluster_id for job in found if job.state is JobState.WAITING and job.autocluster_id is not None}
    return frozenset(joined | before)


def _news(context: Context, result: _Result) -> list[Message]:
    """Asked after the commit: a slot that parks later sees the jobs itself."""
    if not result.autocluster_ids:
        return []

    def ask(tx: Transaction) -> list[Message]:
        parked = optimisation.is_any_slot_parked(tx, result.vo_ids)
        return about_ids(JobsWaiting, sorted(result.autocluster_ids), now=tx.now) if parked else []

    return context.database.read(ask)
