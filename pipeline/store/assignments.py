"""Waiting jobs are assigned to pilots, hundreds at once: what `jobs.apply` promises, in three statements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.store import own_values
from pipeline.store.database import Contended, Transaction, in_chunks
from pipeline.store.jobs import JobRow
from pipeline.store.tables import job_events, jobs, waiting_jobs
from pipeline.store.transition_log import tell_each, tells_each
from schemas.states import JobState


class Assignment(NamedTuple):
    """One job, locked and waiting, its pilot, and what it is granted; columns of the same names."""

    job: JobRow
    pilot_id: int
    site_id: int
    cores: int
    memory: int
    disk: int
    gpus: int
    alternative: int
    charge: int


_GRANTED = Assignment._fields[1:]
_WAITING = ("autocluster_id", "descent", "job_id")


def assign(tx: Transaction, assignments: Sequence[Assignment], wake_at: datetime) -> None:
    """Make the jobs `matched`, each as its next attempt, until `wake_at` for their pilots to confirm.

    What limits and shares count is the caller's to move. Raises Contended when a job is not as it was locked: the
    transaction is then run again from its read.
    """
    for part in in_chunks(assignments):
        leaving = [(job.autocluster_id, -job.priority, job.id) for job, *_ in part]
        own_values.remove(tx, waiting_jobs, _WAITING, sorted(leaving, key=lambda key: (key[0] or 0, *key[1:])))
        alike = {
            "state": JobState.MATCHED,
            "wake_at": wake_at,
            "changed_at": tx.now,
            "matched_at": tx.now,
            "reason": None,
            "dead_letter_id": None,
        }
        rows = sorted((job.id, *granted) for job, *granted in part)
        wanted = own_values.Rows(("id",), _GRANTED, rows, alike, ("attempt",), {"state": JobState.WAITING.value})
        changed = own_values.change(tx, jobs, wanted)
        if changed != len(part):
            raise Contended(f"{len(part) - changed} of {len(part)} jobs did not wait any more under our lock")
        events = sorted((job.id, job.attempt + 1, pilot_id) for job, pilot_id, *_ in part)
        kind = {"from_state": JobState.WAITING, "to_state": JobState.MATCHED, "at": tx.now}
        own_values.add(tx, job_events, ("job_id", "attempt", "pilot_id"), events, kind)
    if tells_each():
        tell_each(tx, [_told(one) for one in assignments])


def _told(one: Assignment) -> dict[str, Any]:
    job = one.job
    about = {"job_id": job.id, "attempt": job.attempt + 1, "pilot_id": one.pilot_id, "site_id": one.site_id}
    states = {"from_state": JobState.WAITING.value, "to_state": JobState.MATCHED.value}
    return {**about, **states, "campaign_id": job.campaign_id, "step_id": job.step_id, "vo_id": job.vo_id}
