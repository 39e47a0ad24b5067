"""What pilots say of attempts: these begin, these have ended. Every word is fenced by job, attempt and pilot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from sqlalchemy import delete, select

from pipeline.store import jobs, specs
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import Change, JobRow
from pipeline.store.losses import NOTHING, Aftermath, Rules, carry_out
from pipeline.store.outputs import Written, attempt_outputs, storage_roots
from pipeline.store.own_attempts import OfPilot, owned
from pipeline.store.pilots import PilotRow, set_failures
from pipeline.store.specs import Spec
from pipeline.store.tables import attempts, reported_outputs
from pipeline.store.tables import jobs as jobs_table
from schemas.lifecycle import after_infrastructure_loss, after_payload_failure
from schemas.pilots import AttemptRef, Refusal, Report, Verdict
from schemas.states import JOB_OCCUPYING, JobState

MAX_REASON = 1000
OUTPUTS_WRONG = "outputs_wrong"
"""In one word: its pilot says that it succeeded, but not with the outputs that it was to leave."""
SUPERSEDED = "superseded: the job is not this pilot's any more"
_GOES_ON = frozenset({JobState.RUNNING, JobState.STALLED})
_TAKEN_UP = frozenset({JobState.COMPLETING, JobState.DONE})
Key = tuple[int, int]
"""A job and an attempt."""
Held = Mapping[OfPilot, JobRow]


@dataclass(frozen=True, slots=True)
class Ruling:
    """The answer to a pilot, and what follows from it."""

    verdict: Verdict
    aftermath: Aftermath = NOTHING


@dataclass(frozen=True, slots=True)
class Rulings:
    """The answers to many pilots, in their order, and what follows from all of them."""

    verdicts: tuple[Verdict, ...]
    aftermath: Aftermath = NOTHING


def start(tx: Transaction, pilot: PilotRow, refs: Sequence[AttemptRef], rules: Rules) -> Ruling:
    """`start_all` for one pilot."""
    rulings = start_all(tx, [(pilot, refs)], rules)
    return Ruling(rulings.verdicts[0], rulings.aftermath)


def report(tx: Transaction, pilot: PilotRow, reports: Sequence[Report], rules: Rules) -> Ruling:
    """`report_all` for one pilot."""
    rulings = report_all(tx, [(pilot, reports)], rules)
    return Ruling(rulings.verdicts[0], rulings.aftermath)


def start_all(tx: Transaction, said: Sequence[tuple[PilotRow, Sequence[AttemptRef]]], rules: Rules) -> Rulings:
    """Locked pilots, each named once, are about to run these attempts.

    One that runs already is accepted again; one that is to be killed ends here.
    """
    held = _held(tx, said)
    changes: list[Change] = []
    verdicts = [_started(held, pilot, refs, changes) for pilot, refs in said]
    return Rulings(tuple(verdicts), carry_out(tx, changes, rules))


def report_all(tx: Transaction, said: Sequence[tuple[PilotRow, Sequence[Report]]], rules: Rules) -> Rulings:
    """These attempts of locked pilots, each named once, have ended.

    A repeated report is accepted again and changes nothing, a superseded one is refused.
    """
    held = _held(tx, said)
    told = _told(tx, said)
    heard = [_Heard.of(pilot, reports, held, told) for pilot, reports in said]
    ending = [job for one in heard for job in one.ending.values()]
    if not ending:
        return Rulings(tuple(one.verdict() for one in heard))
    judge = _Judge(tx, rules, specs.load(tx, {job.spec_id for job in ending}), storage_roots(tx))
    endings = [judge.endings(one) for one in heard]
    _keep_attempts(tx, list(chain.from_iterable(endings)))
    for one, own in zip(heard, endings, strict=True):
        set_failures(tx, one.pilot, _failures(tx, one.pilot, own), rules)
    aftermath = carry_out(tx, [each.change for each in chain.from_iterable(endings)], rules)
    return Rulings(tuple(one.verdict() for one in heard), aftermath)


def _started(held: Held, pilot: PilotRow, refs: Iterable[AttemptRef], changes: list[Change]) -> Verdict:
    accepted: list[AttemptRef] = []
    refused: list[Refusal] = []
    for key in _keys(refs):
        job = held.get((pilot.id, *key))
        if job is not None and job.state in _GOES_ON:
            accepted.append(_ref(key))
        elif job is None or job.state is not JobState.MATCHED:
            refused.append(_refusal(key, SUPERSEDED))
        elif job.kill_requested:
            changes.append(Change(job, JobState.KILLED, "killed on request, before it began"))
            refused.append(_refusal(key, "killed on request"))
        else:
            changes.append(Change(job, JobState.RUNNING))
            accepted.append(_ref(key))
    return Verdict(accepted=tuple(accepted), refused=tuple(refused))


@dataclass(frozen=True, slots=True)
class _Heard:
    """What one pilot reports: its words by attempt, the jobs that end by them, and what it has told before."""

    pilot: PilotRow
    words: Mapping[Key, Report]
    ending: Mapping[Key, JobRow]
    again: frozenset[Key]

    @classmethod
    def of(cls, pilot: PilotRow, reports: Sequence[Report], held: Held, told: AbstractSet[OfPilot]) -> _Heard:
        """Its reports, held against the jobs that are its own."""
        words = {(word.job_id, word.attempt): word for word in reports}
        known = {key for key in words if (pilot.id, *key) in told}
        mine = {key: held[pilot.id, *key] for key in words if (pilot.id, *key) in held}
        ending = {key: job for key, job in mine.items() if key not in known and _may_end(job, words[key])}
        return cls(
            pilot, words, ending, frozenset(known | {key for key, job in mine.items() if job.state in _TAKEN_UP})
        )

    def verdict(self) -> Verdict:
        """What it is answered."""
        taken = [key for key in self.words if key in self.ending or key in self.again]
        refused = [key for key in self.words if key not in self.ending and key not in self.again]
        return Verdict(
            accepted=tuple(_ref(key) for key in taken),
            refused=tuple(_refusal(key, SUPERSEDED) for key in refused),
        )


@dataclass(frozen=True, slots=True)
class _Ending:
    """One accepted report: what the job becomes, and what the pilot wrote if that counts."""

    job: JobRow
    word: Report
    change: Change
    outcome: str
    reason: str
    written: tuple[Written, ...] = ()


@dataclass(frozen=True, slots=True)
class _Judge:
    """Decides what becomes of a job whose pilot reported the end of its attempt."""

    tx: Transaction
    rules: Rules
    templates: Mapping[int, Spec]
    roots: Mapping[int, str]

    def endings(self, heard: _Heard) -> list[_Ending]:
        """Of all jobs that end by one pilot's reports."""
        return [self._ending(heard.pilot.vo, job, heard.words[key]) for key, job in heard.ending.items()]

    def _ending(self, vo: str, job: JobRow, word: Report) -> _Ending:
        """The outcome is the pilot's word, unless declared outputs are not where they belong."""
        outcome, reason = str(word.outcome), word.reason
        written: tuple[Written, ...] = ()
        if outcome == "succeeded":
            answer = attempt_outputs(vo, job, self.templates[job.spec_id], word.outputs, self.roots)
            if isinstance(answer, str):
                outcome, reason = "payload_failed", answer
            else:
                written = answer
        change = self._change(job, outcome, reason)
        if word.exit_code is not None:
            change = replace(change, values=(*change.values, ("exit_code", word.exit_code)))
        return _Ending(job, word, change, outcome, reason, written if change.to is JobState.COMPLETING else ())

    def _change(self, job: JobRow, outcome: str, reason: str) -> Change:
        retries, cool_off = self.templates[job.spec_id].template.retries, self.rules.cool_off
        if job.kill_requested:
            return Change(job, JobState.KILLED, f"killed on request (its pilot reported: {outcome})")
        if outcome == "succeeded":
            return Change(job, JobState.COMPLETING, wake_at=self.tx.after(self.rules.wake_after))
        if outcome == "payload_failed":
            verdict = after_payload_failure(job.losses, retries, cool_off, reason or "the command failed")
        else:
            why = reason or ("its pilot killed it" if outcome == "killed" else "the infrastructure failed")
            verdict = after_infrastructure_loss(job.losses, retries, cool_off, why)
        return jobs.verdict_change(self.tx, job, verdict)


def _held(tx: Transaction, said: Sequence[tuple[PilotRow, Sequence[AttemptRef]]]) -> Held:
    """The jobs that are spoken of and that belong to who speaks, locked, by pilot, job and attempt."""
    pilot_ids = [pilot.id for pilot, _ in said]
    job_ids = sorted({ref.job_id for _, refs in said for ref in refs})
    found: list[JobRow] = []
    for chunk in in_chunks(job_ids):
        mine = (jobs_table.c.id.in_(chunk), jobs_table.c.pilot_id.in_(pilot_ids))
        found += jobs.lock_where(tx, jobs.columns().where(*mine))
    return {owned(job): job for job in found}


def _may_end(job: JobRow, word: Report) -> bool:
    """An attempt that never began may end badly, but not well."""
    return job.state in _GOES_ON or (job.state in JOB_OCCUPYING and word.outcome != "succeeded")


def _told(tx: Transaction, said: Sequence[tuple[PilotRow, Sequence[AttemptRef]]]) -> set[OfPilot]:
    """Attempts that their pilots have reported before: their jobs may have gone on since."""
    pilot_ids = [pilot.id for pilot, _ in said]
    job_ids = sorted({ref.job_id for _, refs in said for ref in refs})
    query = select(attempts.c.pilot_id, attempts.c.job_id, attempts.c.attempt).where(attempts.c.pilot_id.in_(pilot_ids))
    return {
        (row.pilot_id, row.job_id, row.attempt)
        for chunk in in_chunks(job_ids)
        for row in tx.rows(query.where(attempts.c.job_id.in_(chunk)))
    }


def _keep_attempts(tx: Transaction, endings: Sequence[_Ending]) -> None:
    """Measured: MariaDB reads all of a table for tuples, `(job_id, attempt) IN (...)`; so it goes by attempt number."""
    tx.add_all(attempts, [_attempt_row(tx, ending) for ending in endings])
    winners = [e for e in endings if e.change.to is JobState.COMPLETING]
    numbered: defaultdict[int, list[int]] = defaultdict(list)
    for each in winners:
        numbered[each.job.attempt].append(each.job.id)
    for attempt, job_ids in numbered.items():
        for chunk in in_chunks(sorted(job_ids)):
            old = (reported_outputs.c.job_id.in_(chunk), reported_outputs.c.attempt == attempt)
            tx.run(delete(reported_outputs).where(*old))
    tx.add_all(
        reported_outputs,
        [{"job_id": e.job.id, "attempt": e.job.attempt, **file.columns()} for e in winners for file in e.written],
    )


def _attempt_row(tx: Transaction, ending: _Ending) -> dict[str, Any]:
    return {
        "job_id": ending.job.id,
        "attempt": ending.job.attempt,
        "pilot_id": ending.job.pilot_id,
        "outcome": ending.outcome,
        "exit_code": ending.word.exit_code,
        "reason": ending.reason[:MAX_REASON] or None,
        "minor": ending.word.minor if ending.outcome == ending.word.outcome else OUTPUTS_WRONG,
        "wall_time": ending.word.wall_time,
        "cpu_time": ending.word.cpu_time,
        "memory": ending.word.memory,
        "ended_at": tx.now,
    }


def _failures(tx: Transaction, pilot: PilotRow, endings: Sequence[_Ending]) -> int:
    """Jobs that its node has failed in a row, by what it reports now. That a job failed which fails everywhere says
    nothing of the node; one of a step that has succeeded somewhere does."""
    failed = {ending.job.step_id for ending in endings if ending.outcome == "payload_failed"}
    succeeded = {step_id for step_id in failed if _has_succeeded(tx, step_id)}
    failures = pilot.failures_in_row
    for ending in endings:
        of_payload = ending.outcome == "payload_failed" and ending.job.step_id in succeeded
        if ending.outcome == "succeeded":
            failures = 0
        elif of_payload or ending.outcome == "infrastructure_failed":
            failures += 1
    return failures


def _has_succeeded(tx: Transaction, step_id: int) -> bool:
    mine = (jobs_table.c.step_id == step_id, jobs_table.c.state.in_(_TAKEN_UP))
    return tx.first(select(jobs_table.c.id).where(*mine)) is not None


def _keys(refs: Iterable[AttemptRef]) -> list[Key]:
    return list(dict.fromkeys((ref.job_id, ref.attempt) for ref in refs))


def _ref(key: Key) -> AttemptRef:
    return AttemptRef(job_id=key[0], attempt=key[1])


def _refusal(key: Key, reason: str) -> Refusal:
    return Refusal(job_id=key[0], attempt=key[1], reason=reason)
