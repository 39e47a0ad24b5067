"""Pilots that fell silent: their jobs stall, then go back; unless it is the API that was deaf, or everybody is."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from pipeline.store import jobs, losses
from pipeline.store.database import Transaction
from pipeline.store.heartbeats import SERVING_GAP, serving_since
from pipeline.store.jobs import Change
from pipeline.store.losses import Aftermath, Rules
from pipeline.store.tables import controls, pilots, slots
from schemas.states import PILOT_ACTIVE, JobState, PilotState

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


def listen(tx: Transaction, rules: Rules) -> Hearing:
    """Pilots silent for longer than the heartbeat timeout; nobody while the API can't be heard by, or just began."""
    active = tx.scalar(select(func.count()).select_from(pilots).where(pilots.c.state.in_(PILOT_ACTIVE)))
    since = serving_since(tx, SERVING_GAP * rules.heartbeat_interval)
    if since is None or since > tx.after(-rules.heartbeat_timeout):
        return Hearing((), active)
    unheard = pilots.c.last_seen < tx.after(-rules.heartbeat_timeout)
    query = select(pilots.c.id, pilots.c.last_seen).where(pilots.c.state.in_(PILOT_ACTIVE), unheard)
    silent = (Silent(row.id, (tx.now - max(row.last_seen, since)).total_seconds()) for row in tx.rows(query))
    return Hearing(tuple(silent), active)


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


def lose(tx: Transaction, pilot_id: int, rules: Rules, reason: str) -> Aftermath:
    """A pilot is lost and its jobs with it: they start again, or fail, or are killed."""
    tx.run(delete(slots).where(slots.c.pilot_id == pilot_id))
    active = (pilots.c.id == pilot_id, pilots.c.state.in_(PILOT_ACTIVE))
    tx.run(update(pilots).where(*active).values(state=PilotState.LOST, reason=reason))
    return losses.lose(tx, jobs.of_pilot(tx, pilot_id), reason, rules)
