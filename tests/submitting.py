"""Campaigns put into a database by the real submission, and jobs moved through real transitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import select

from pipeline.store import access, campaigns, jobs
from pipeline.store.campaigns import Submission, Submitted
from pipeline.store.database import Database, Transaction
from pipeline.store.jobs import Change, JobRow
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import steps as steps_table
from schemas.campaign import Campaign
from schemas.states import JobState

WAKE_AFTER = 30.0


@dataclass(frozen=True, slots=True)
class User:
    """An identity of a VO."""

    vo_id: int
    identity_id: int


def user(database: Database, vo: str = "default", subject: str = "alice") -> User:
    """An identity, made when it is not there."""
    vo_id = database.transact(lambda tx: access.ensure_vo(tx, vo))
    return User(vo_id, database.transact(lambda tx: access.ensure_identity(tx, vo_id, "local", subject, "physics")))


def submit(database: Database, *steps: dict[str, Any], owner: User | None = None, **given: Any) -> Submitted:
    """Submit a campaign of these steps (`command` is filled in)."""
    owner = owner or user(database)
    description = Campaign.model_validate(
        {"campaign": "test", "steps": [{"command": ["true"], **step} for step in steps]}
    )
    submission = Submission(
        vo_id=owner.vo_id,
        owner_id=owner.identity_id,
        description=description,
        sandboxes={},
        idempotency_key=given.get("key"),
        request_digest=given.get("digest", "d"),
    )
    return campaigns.submit(
        database, submission, window=given.get("window", 4), wake_after=given.get("wake_after", WAKE_AFTER)
    )


def array(size: int) -> dict[str, Any]:
    """Parameters that make so many jobs."""
    return {"parameters": {"axes": {"n": {"range": [0, size]}}}}


def all_jobs(database: Database, campaign_id: int) -> list[JobRow]:
    """Every job of a campaign."""
    query = jobs.columns().where(jobs_table.c.campaign_id == campaign_id)
    return database.transact(lambda tx: jobs.lock_where(tx, query))


def move(database: Database, job_ids: Sequence[int], *states: JobState, **values: Any) -> None:
    """Take jobs through these states, one after the other; `values` go with each transition."""
    for state in states:
        database.transact(partial(_apply, job_ids=job_ids, state=state, values=tuple(values.items())))


def _apply(tx: Transaction, job_ids: Sequence[int], state: JobState, values: tuple[tuple[str, Any], ...]) -> None:
    jobs.apply(tx, [Change(job, state, values=values) for job in jobs.lock(tx, job_ids)])


TO_COMPLETING = (JobState.WAITING, JobState.MATCHED, JobState.RUNNING, JobState.COMPLETING)


def step_states(database: Database, campaign_id: int) -> dict[tuple[str, int], str]:
    """The state of every version of every step."""
    query = select(steps_table.c.name, steps_table.c.version, steps_table.c.state)
    rows = database.transact(lambda tx: tx.rows(query.where(steps_table.c.campaign_id == campaign_id)))
    return {(row.name, row.version): row.state for row in rows}
