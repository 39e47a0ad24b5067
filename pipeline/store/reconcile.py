"""What reconcile reads and puts right besides jobs, steps and files."""

from __future__ import annotations

from sqlalchemy import exists, func, select, update

from pipeline.store import jobs
from pipeline.store.database import Transaction
from pipeline.store.heartbeats import SERVING_GAP, serving_since
from pipeline.store.jobs import Change
from pipeline.store.losses import Rules
from pipeline.store.tables import autoclusters, slots, vos, waiting_jobs
from pipeline.store.tables import jobs as jobs_table
from schemas.states import JOB_OCCUPYING, JobState


def overdue_slots(tx: Transaction, most: int, seconds: float) -> list[int]:
    """Up to `most` pilots whose offer nobody dealt with in time; they are looked at again after so many seconds."""
    query = select(slots.c.pilot_id).where(slots.c.wake_at <= tx.now).order_by(slots.c.wake_at).limit(most)
    ids = [row.pilot_id for row in tx.lock(query, skip_locked=True)]
    if ids:
        tx.run(update(slots).where(slots.c.pilot_id.in_(ids)).values(wake_at=tx.after(seconds)))
    return ids


def waiting_beside_parked(tx: Transaction, most: int) -> list[int]:
    """Up to `most` autoclusters with waiting jobs in VOs that have parked slots with a free core."""
    vo_ids = _vos_with_room(tx)
    if not vo_ids:
        return []
    waiting = exists().where(waiting_jobs.c.autocluster_id == autoclusters.c.id)
    stamped = autoclusters.c.dead_letter_id.is_not(None)
    query = (
        select(autoclusters.c.id)
        .where(autoclusters.c.vo_id.in_(vo_ids), waiting, ~stamped)
        .order_by(autoclusters.c.id)
        .limit(most)
    )
    return [row.id for row in tx.rows(query)]


def _vos_with_room(tx: Transaction) -> list[int]:
    taken = (
        select(func.coalesce(func.sum(jobs_table.c.cores), 0))
        .where(jobs_table.c.pilot_id == slots.c.pilot_id, jobs_table.c.state.in_(JOB_OCCUPYING))
        .scalar_subquery()
    )
    has_room = exists().where(slots.c.state == "parked", slots.c.vo_id == vos.c.id, slots.c.cores > taken)
    return [row.id for row in tx.rows(select(vos.c.id).where(has_room))]


def return_unconfirmed(tx: Transaction, most: int, rules: Rules) -> int:
    """Put assignments that no pilot confirmed in time back to waiting (or kill those that are to be killed).

    None while the API is away, nor for a while after: their pilots could not confirm.
    """
    since = serving_since(tx, SERVING_GAP * rules.heartbeat_interval)
    if since is None or since > tx.after(-rules.confirm_timeout):
        return 0
    ids = [job_id for job_id, _ in jobs.overdue(tx, (JobState.MATCHED,), most)]
    found = [job for job in jobs.lock(tx, ids) if job.state is JobState.MATCHED]
    jobs.apply(
        tx,
        [
            Change(job, JobState.KILLED, "killed on request")
            if job.kill_requested
            else Change(job, JobState.WAITING, "assignment not confirmed in time")
            for job in found
        ],
    )
    return len(found)
