"""Pilots that fell silent: their jobs stall, then go back; unless it is the API that was deaf, or everybody is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update

from pipeline.store import jobs, specs
from pipeline.store.database import Transaction
from pipeline.store.jobs import Change
from pipeline.store.tables import controls, pilots, slots
from schemas.lifecycle import after_infrastructure_loss
from schemas.outcomes import Backoff
from schemas.states import JOB_OCCUPYING, PILOT_ACTIVE, JobState, PilotState

SERVING = "api_serving"
PAUSED = "rescheduling_paused"


@dataclass(frozen=True, slots=True)
class Silent:
    """A pilot and for how long it has said nothing while it could have been heard (seconds)."""

    pilot_id: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hearing:
    """Who is silent among how many active pilots."""

    silent: tuple[Silent, ...]
    active: int


def listen(tx: Transaction, *, timeout: float, deaf_after: float) -> Hearing:
    """Pilots silent for more than `timeout` seconds; nobody when the API has not served for `deaf_after` seconds."""
    active = tx.scalar(select(func.count()).select_from(pilots).where(pilots.c.state.in_(PILOT_ACTIVE)))
    serving = tx.first(select(controls.c.since, controls.c.at).where(controls.c.name == SERVING))
    if serving is None or serving.at < tx.after(-deaf_after) or serving.since > tx.after(-timeout):
        return Hearing((), active)
    query = select(pilots.c.id, pilots.c.last_seen).where(
        pilots.c.state.in_(PILOT_ACTIVE), pilots.c.last_seen < tx.after(-timeout)
    )
    silent = tuple(Silent(row.id, _seconds(tx, max(row.last_seen, serving.since))) for row in tx.rows(query))
    return Hearing(silent, active)


def pause_rescheduling(tx: Transaction, why: str) -> bool:
    """Note that silence is not acted on, and why; whether that is news."""
    known = tx.scalar(select(controls.c.name).where(controls.c.name == PAUSED)) is not None
    tx.put(controls, [{"name": PAUSED, "value": 1, "note": why, "since": tx.now, "at": tx.now}], ("note", "at"))
    return not known


def resume_rescheduling(tx: Transaction) -> bool:
    """Silence is acted on again; whether that is news."""
    return tx.run(delete(controls).where(controls.c.name == PAUSED)) > 0


def stall(tx: Transaction, pilot_id: int) -> int:
    """The running jobs of a silent pilot are stalled; how many."""
    found = jobs.of_pilot(tx, pilot_id, (JobState.RUNNING,))
    jobs.apply(tx, [Change(job, JobState.STALLED, "its pilot fell silent") for job in found])
    return len(found)


def lose(tx: Transaction, pilot_id: int, cool_off: Backoff, reason: str) -> set[int]:
    """A pilot is lost and its jobs with it: they start again, or fail, or are killed. Returns their steps."""
    tx.run(delete(slots).where(slots.c.pilot_id == pilot_id))
    active = (pilots.c.id == pilot_id, pilots.c.state.in_(PILOT_ACTIVE))
    tx.run(update(pilots).where(*active).values(state=PilotState.LOST, reason=reason))
    found = jobs.of_pilot(tx, pilot_id, JOB_OCCUPYING)
    templates = specs.load(tx, {job.spec_id for job in found})
    changes = []
    for job in found:
        retries = templates[job.spec_id].template.retries
        verdict = after_infrastructure_loss(job.losses, retries, cool_off, reason)
        changes.append(jobs.verdict_change(tx, job, verdict))
    jobs.apply(tx, changes)
    return {job.step_id for job in found}


def _seconds(tx: Transaction, moment: datetime) -> float:
    return (tx.now - moment) / timedelta(seconds=1)
