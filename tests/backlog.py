"""People and the jobs of theirs that wait, each in the autocluster that optimisation would have put it into."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from pipeline.store import access, autoclusters
from pipeline.store.autoclusters import Bucket
from pipeline.store.database import Database, Transaction
from pipeline.store.tables import identities
from schemas.requirements import Requirement
from schemas.states import JobState
from tests.submitting import User, all_jobs, array, move, submit


def person(database: Database, vo: str, subject: str = "alice", group: str = "prod") -> User:
    """Somebody in a share group of a VO; made when there is nobody of that name."""

    def work(tx: Transaction) -> User:
        vo_id = access.ensure_vo(tx, vo)
        return User(vo_id, access.ensure_identity(tx, vo_id, access.ISSUER, subject, group))

    return database.transact(work)


def cluster(database: Database, owner: User, requirement: Requirement, job_type: str = "user") -> int:
    """The autocluster of such jobs."""

    def work(tx: Transaction) -> int:
        group_id = tx.scalar(select(identities.c.group_id).where(identities.c.id == owner.identity_id))
        key = requirement.signature(), Bucket(owner.vo_id, group_id, owner.identity_id, job_type)
        return autoclusters.ensure(tx, {key: requirement})[key]

    return database.transact(work)


def received(database: Database, owner: User, many: int = 1, **step: Any) -> list[int]:
    """The ids of so many new jobs of a step."""
    submitted = submit(database, {"name": "s", **array(many), **step}, owner=owner)
    return [job.id for job in all_jobs(database, submitted.campaign_id)]


def waiting(database: Database, owner: User, many: int = 1, *, priority: int = 0, **step: Any) -> list[int]:
    """The ids of so many jobs of a step that wait for a slot."""
    ids = received(database, owner, many, **step)
    wanted = Requirement.model_validate(step.get("requirements", {}))
    autocluster_id = cluster(database, owner, wanted, step.get("job_type", "user"))
    move(database, ids, JobState.WAITING, autocluster_id=autocluster_id, priority=priority)
    return ids
