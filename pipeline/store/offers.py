"""What pilots offer: one slots row each, whose lock is the pilot's lock for whoever assigns jobs to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select, update

from pipeline.store import jobs, specs
from pipeline.store.database import Transaction
from pipeline.store.jobs import JobRow
from pipeline.store.losses import Rules
from pipeline.store.pilots import PilotRow
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import slots
from schemas.messages import Message, SlotsOffered, about_ids
from schemas.pilots import AttemptRef, OfferRequest
from schemas.rooms import Room
from schemas.states import JobState


@dataclass(frozen=True, slots=True)
class Offered:
    """Assignments that the pilot does not know yet; without any, `messages` ask matching for some."""

    assigned: tuple[JobRow, ...] = ()
    drain: bool = False
    messages: tuple[Message, ...] = ()


def offer(tx: Transaction, pilot: PilotRow, request: OfferRequest, rules: Rules) -> Offered:
    """Note what a locked pilot offers. An assignment that it has not confirmed is given again, before any other."""
    tx.lock(select(slots.c.pilot_id).where(slots.c.pilot_id == pilot.id))
    if pilot.drains(rules):
        tx.run(delete(slots).where(slots.c.pilot_id == pilot.id))
        return Offered(drain=True)
    mine = jobs.of_pilot(tx, pilot.id)
    assigned = _unconfirmed(mine, request.jobs)
    foreign = _foreign(tx, pilot, mine, request.jobs)
    row = {
        "pilot_id": pilot.id,
        "vo_id": pilot.vo_id,
        "state": "parked" if assigned else "offered",
        "cores": max(request.cores - sum(taken.cores for taken in foreign), 0),
        "memory": max(request.memory - sum(taken.memory for taken in foreign), 0),
        "disk": max(request.disk - sum(taken.disk for taken in foreign), 0),
        "gpus": max(request.gpus - sum(taken.gpus for taken in foreign), 0),
        "ends_at": tx.after(request.time_left),
        "offered_at": tx.now,
        "wake_at": None if assigned else tx.after(rules.wake_after),
    }
    tx.put(slots, [row], [name for name in row if name != "pilot_id"])
    messages = () if assigned else about_ids(SlotsOffered, [pilot.id], now=tx.now)
    return Offered(tuple(assigned), messages=tuple(messages))


def fetch(tx: Transaction, pilot_id: int, known: Sequence[AttemptRef]) -> list[JobRow]:
    """The assignments that a waiting pilot does not know yet; room that is left stays on offer."""
    tx.lock(select(slots.c.pilot_id).where(slots.c.pilot_id == pilot_id))
    served = (slots.c.pilot_id == pilot_id, slots.c.state == "served")
    tx.run(update(slots).where(*served).values(state="parked", wake_at=None))
    return _unconfirmed(jobs.of_pilot(tx, pilot_id), known)


def served(tx: Transaction) -> frozenset[int]:
    """The pilots for which jobs wait."""
    return frozenset(row.pilot_id for row in tx.rows(select(slots.c.pilot_id).where(slots.c.state == "served")))


def _unconfirmed(mine: Iterable[JobRow], known: Iterable[AttemptRef]) -> list[JobRow]:
    taken = {(ref.job_id, ref.attempt) for ref in known}
    return [job for job in mine if job.state is JobState.MATCHED and (job.id, job.attempt) not in taken]


def _foreign(tx: Transaction, pilot: PilotRow, mine: Iterable[JobRow], known: Iterable[AttemptRef]) -> list[Room]:
    """What attempts take that the pilot still holds but that are not its own any more: that room is not free."""
    counted = {(job.id, job.attempt) for job in mine}
    others = [ref.job_id for ref in known if (ref.job_id, ref.attempt) not in counted]
    if not others:
        return []
    query = select(jobs_table.c.spec_id).where(jobs_table.c.id.in_(others), jobs_table.c.vo_id == pilot.vo_id)
    spec_ids = [row.spec_id for row in tx.rows(query)]
    templates = specs.load(tx, spec_ids)
    return [templates[spec_id].template.requirements.specifications()[0].least for spec_id in spec_ids]
