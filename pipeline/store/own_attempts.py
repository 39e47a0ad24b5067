"""What a pilot's token reaches: the sandboxes and archives of the attempts that it holds."""

from __future__ import annotations

from sqlalchemy import select

from pipeline.store.database import Transaction
from pipeline.store.tables import job_specs, jobs
from schemas.states import JOB_ON_PILOT


def holds_attempt(tx: Transaction, pilot_id: int, job_id: int, attempt: int) -> bool:
    """Whether this is the present attempt of one of the pilot's jobs."""
    mine = (jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.pilot_id == pilot_id)
    return tx.first(select(jobs.c.id).where(*mine, jobs.c.state.in_(JOB_ON_PILOT))) is not None


def holds_sandbox(tx: Transaction, pilot_id: int, digest: str) -> bool:
    """Whether one of the pilot's present jobs was submitted with this sandbox."""
    query = select(jobs.c.id).join(job_specs, job_specs.c.id == jobs.c.spec_id)
    mine = (jobs.c.pilot_id == pilot_id, jobs.c.state.in_(JOB_ON_PILOT), job_specs.c.sandbox == digest)
    return tx.first(query.where(*mine)) is not None
