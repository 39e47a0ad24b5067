"""OutputsReported: verify what pilots say they wrote, register the winners' files, close the jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from executors.data.comparison import Answers, ask
from executors.data.decide import complaint, is_compared
from pipeline.runtime.spec import Context
from pipeline.store import files, jobs, specs
from pipeline.store.database import Transaction
from pipeline.store.files import Claim
from pipeline.store.jobs import Change, JobRow
from pipeline.store.losses import Aftermath, Rules, carry_out, to_publish
from schemas.lifecycle import after_infrastructure_loss
from schemas.messages import Message
from schemas.states import JobState


def verify(context: Context, job_ids: Sequence[int]) -> list[Message]:
    """Deal with completing jobs; returns StepsDue for steps whose last job has ended."""

    def read(tx: Transaction) -> tuple[list[Claim], Mapping[int, files.StorageRow]]:
        claims = files.claims(tx, job_ids)
        return claims, files.storage_rows(tx, {o.storage_id for claim in claims for o in claim.outputs})

    claims, storages = context.database.read(read)
    wanted = [(o.storage_id, o.path) for claim in claims if is_compared(claim) for o in claim.outputs]
    answers = ask(storages, wanted)
    rules = Rules.of(context.settings)
    aftermath = context.database.transact(lambda tx: _commit(tx, rules, claims, answers))
    return to_publish(context.database, aftermath)


def _commit(tx: Transaction, rules: Rules, claims: Sequence[Claim], answers: Answers) -> Aftermath:
    by_job = {claim.job_id: claim for claim in claims}
    found = [job for job in jobs.lock(tx, by_job) if _is_still(job, by_job[job.id])]
    templates = specs.load(tx, {job.spec_id for job in found})
    changes: list[Change] = []
    won: list[tuple[JobRow, Claim]] = []
    waiting: list[int] = []
    for job in found:
        claim = by_job[job.id]
        if job.kill_requested:
            changes.append(Change(job, JobState.KILLED, "killed on request"))
        elif is_compared(claim) and answers.silent & {output.storage_id for output in claim.outputs}:
            waiting.append(job.id)
        elif (reason := complaint(claim, answers.stats)) is not None:
            retries = templates[job.spec_id].template.retries
            verdict = after_infrastructure_loss(job.losses, retries, rules.cool_off, reason)
            changes.append(jobs.verdict_change(tx, job, verdict))
        else:
            changes.append(Change(job, JobState.DONE))
            won.append((job, claim))
    aftermath = carry_out(tx, changes, rules)
    jobs.set_wake_at(tx, waiting, tx.after(rules.wake_after))
    if won:
        files.register(tx, won)
    return aftermath


def _is_still(job: JobRow, claim: Claim) -> bool:
    return job.state is JobState.COMPLETING and job.attempt == claim.attempt
