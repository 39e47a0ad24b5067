"""What pilots say of attempts: these begin, these have ended. Every word is fenced by job, attempt and pilot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, select, tuple_

from pipeline.store import jobs, specs
from pipeline.store.database import Transaction
from pipeline.store.jobs import Change, JobRow
from pipeline.store.losses import NOTHING, Aftermath, Rules, carry_out
from pipeline.store.outputs import Written, attempt_outputs, storage_roots
from pipeline.store.pilots import PilotRow, set_failures
from pipeline.store.specs import Spec
from pipeline.store.tables import attempts, reported_outputs
from pipeline.store.tables import jobs as jobs_table
from schemas.lifecycle import after_infrastructure_loss, after_payload_failure
from schemas.pilots import AttemptRef, Refusal, Report, Verdict
from schemas.states import JOB_OCCUPYING, JobState

MAX_REASON = 1000
SUPERSEDED = "superseded: the job is not this pilot's any more"
_GOES_ON = frozenset({JobState.RUNNING, JobState.STALLED})
_TAKEN_UP = frozenset({JobState.COMPLETING, JobState.DONE})
Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ruling:
    """The answer to a pilot, and what follows from it."""

    verdict: Verdict
    aftermath: Aftermath = NOTHING


def start(tx: Transaction, pilot: PilotRow, refs: Sequence[AttemptRef], rules: Rules) -> Ruling:
    """These attempts are about to run. One that runs already is accepted again; one that is to be killed ends here."""
    found = {(job.id, job.attempt): job for job in _mine(tx, pilot, refs)}
    changes: list[Change] = []
    accepted: list[AttemptRef] = []
    refused: list[Refusal] = []
    for key in _keys(refs):
        job = found.get(key)
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
    aftermath = carry_out(tx, changes, rules)
    return Ruling(Verdict(accepted=tuple(accepted), refused=tuple(refused)), aftermath)


def report(tx: Transaction, pilot: PilotRow, reports: Sequence[Report], rules: Rules) -> Ruling:
    """These attempts have ended. A repeated report is accepted again and changes nothing, a superseded one refused."""
    words = {(word.job_id, word.attempt): word for word in reports}
    mine = {(job.id, job.attempt): job for job in _mine(tx, pilot, reports)}
    told = _told(tx, pilot, words)
    ending = {key: mine[key] for key in words if key in mine and _may_end(mine[key], words[key]) and key not in told}
    again = {key for key in words if key in told or (key in mine and mine[key].state in _TAKEN_UP)}
    if ending:
        templates = specs.load(tx, {job.spec_id for job in ending.values()})
        judge = _Judge(tx, pilot.vo, rules, templates, storage_roots(tx))
        endings = [judge.ending(job, words[key]) for key, job in ending.items()]
        _keep_attempts(tx, pilot, endings)
        set_failures(tx, pilot, _failures(tx, pilot, endings), rules)
        aftermath = carry_out(tx, [ending.change for ending in endings], rules)
    else:
        aftermath = NOTHING
    accepted = [key for key in words if key in ending or key in again]
    refused = [key for key in words if key not in ending and key not in again]
    verdict = Verdict(
        accepted=tuple(_ref(key) for key in accepted),
        refused=tuple(_refusal(key, SUPERSEDED) for key in refused),
    )
    return Ruling(verdict, aftermath)


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
    vo: str
    rules: Rules
    templates: Mapping[int, Spec]
    roots: Mapping[int, str]

    def ending(self, job: JobRow, word: Report) -> _Ending:
        """The outcome is the pilot's word, unless declared outputs are not where they belong."""
        outcome, reason = str(word.outcome), word.reason
        written: tuple[Written, ...] = ()
        if outcome == "succeeded":
            answer = attempt_outputs(self.vo, job, self.templates[job.spec_id], word.outputs, self.roots)
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


def _mine(tx: Transaction, pilot: PilotRow, refs: Iterable[AttemptRef]) -> list[JobRow]:
    ids = {ref.job_id for ref in refs}
    return jobs.lock_where(tx, jobs.columns().where(jobs_table.c.id.in_(ids), jobs_table.c.pilot_id == pilot.id))


def _may_end(job: JobRow, word: Report) -> bool:
    """An attempt that never began may end badly, but not well."""
    return job.state in _GOES_ON or (job.state in JOB_OCCUPYING and word.outcome != "succeeded")


def _told(tx: Transaction, pilot: PilotRow, words: Iterable[Key]) -> set[Key]:
    """Attempts that this pilot has reported before: their jobs may have gone on since."""
    key = tuple_(attempts.c.job_id, attempts.c.attempt)
    query = select(attempts.c.job_id, attempts.c.attempt)
    rows = tx.rows(query.where(key.in_(sorted(words)), attempts.c.pilot_id == pilot.id))
    return {(row.job_id, row.attempt) for row in rows}


def _keep_attempts(tx: Transaction, pilot: PilotRow, endings: Sequence[_Ending]) -> None:
    tx.add_all(attempts, [_attempt_row(tx, pilot, ending) for ending in endings])
    winners = [e for e in endings if e.change.to is JobState.COMPLETING]
    if winners:
        key = tuple_(reported_outputs.c.job_id, reported_outputs.c.attempt)
        tx.run(delete(reported_outputs).where(key.in_([(e.job.id, e.job.attempt) for e in winners])))
    tx.add_all(
        reported_outputs,
        [{"job_id": e.job.id, "attempt": e.job.attempt, **file.columns()} for e in winners for file in e.written],
    )


def _attempt_row(tx: Transaction, pilot: PilotRow, ending: _Ending) -> dict[str, Any]:
    return {
        "job_id": ending.job.id,
        "attempt": ending.job.attempt,
        "pilot_id": pilot.id,
        "outcome": ending.outcome,
        "exit_code": ending.word.exit_code,
        "reason": ending.reason[:MAX_REASON] or None,
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
