"""What pilots hold, and what a pilot's token reaches by that: the sandboxes and archives of its attempts."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import JobRow, columns, lock_where
from pipeline.store.tables import job_specs, jobs
from schemas.states import JOB_OCCUPYING, JOB_ON_PILOT

OfPilot = tuple[int, int, int]
"""A pilot, a job and an attempt."""


def of_pilots(tx: Transaction, pilot_ids: Iterable[int]) -> list[JobRow]:
    """The jobs that take room on these pilots, locked, ordered by id.

    The index is forced: measured, for a hundred pilots MariaDB would rather read, and lock, the whole table.
    """
    found: list[JobRow] = []
    query = columns().with_hint(jobs, "FORCE INDEX (ix_jobs_pilot_id_state)", "mysql")
    for chunk in in_chunks(sorted(set(pilot_ids))):
        found += lock_where(tx, query.where(jobs.c.pilot_id.in_(chunk), jobs.c.state.in_(JOB_OCCUPYING)))
    return found


def owned(job: JobRow) -> OfPilot:
    """Whose attempt it is."""
    return job.pilot_id or 0, job.id, job.attempt


def holds_attempt(tx: Transaction, pilot_id: int, job_id: int, attempt: int) -> bool:
    """Whether this is the present attempt of one of the pilot's jobs."""
    mine = (jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.pilot_id == pilot_id)
    return tx.first(select(jobs.c.id).where(*mine, jobs.c.state.in_(JOB_ON_PILOT))) is not None


def holds_sandbox(tx: Transaction, pilot_id: int, digest: str) -> bool:
    """Whether one of the pilot's present jobs was submitted with this sandbox."""
    query = select(jobs.c.id).join(job_specs, job_specs.c.id == jobs.c.spec_id)
    mine = (jobs.c.pilot_id == pilot_id, jobs.c.state.in_(JOB_ON_PILOT), job_specs.c.sandbox == digest)
    return tx.first(query.where(*mine)) is not None
