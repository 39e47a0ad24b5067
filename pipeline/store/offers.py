"""What pilots offer: one slots row each, whose lock is the pilot's lock for whoever assigns jobs to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row, delete, select, update

from pipeline.store import specs
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import JobRow
from pipeline.store.losses import Rules
from pipeline.store.own_attempts import OfPilot, of_pilots, owned
from pipeline.store.pilots import PilotRow
from pipeline.store.specs import Spec
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import slots
from schemas.messages import Message, SlotsOffered, about_ids
from schemas.pilots import AttemptRef, OfferRequest
from schemas.rooms import Room
from schemas.states import JobState

_OFFERED = ("vo_id", "state", "cores", "memory", "disk", "gpus", "ends_at", "offered_at", "wake_at")


@dataclass(frozen=True, slots=True)
class Offered:
    """Assignments that the pilot does not know yet; without any, `messages` ask matching for some."""

    assigned: tuple[JobRow, ...] = ()
    drain: bool = False
    messages: tuple[Message, ...] = ()


def offer(tx: Transaction, pilot: PilotRow, request: OfferRequest, rules: Rules) -> Offered:
    """`offer_all` for one pilot, however long another transaction holds its slot."""
    lock_slot(tx, pilot.id)
    (offered,), messages = offer_all(tx, [(pilot, request)], rules)
    return replace(offered, messages=tuple(messages))


def offer_all(
    tx: Transaction, said: Sequence[tuple[PilotRow, OfferRequest]], rules: Rules
) -> tuple[list[Offered], list[Message]]:
    """Note what locked pilots, each named once, offer; what they get, in their order, and messages about the others.

    Their slots are locked. An assignment that a pilot has not confirmed is given again, before any other.
    """
    draining = [pilot.id for pilot, _ in said if pilot.drains(rules)]
    if draining:
        tx.run(delete(slots).where(slots.c.pilot_id.in_(draining)))
    offering = [(pilot, request) for pilot, request in said if pilot.id not in draining]
    mine = of_pilots(tx, [pilot.id for pilot, _ in offering])
    known = {pilot.id: _attempts(pilot.id, request.jobs) for pilot, request in offering}
    assigned = _unconfirmed(mine, known)
    foreign = _foreign(tx, {pilot.id: pilot.vo_id for pilot, _ in offering}, mine, known)
    rows = [
        _slot(tx, pilot, request, foreign[pilot.id], None if assigned[pilot.id] else rules.wake_after)
        for pilot, request in offering
    ]
    tx.put(slots, rows, _OFFERED)
    asking = [pilot.id for pilot, _ in offering if not assigned[pilot.id]]
    answers = [Offered(tuple(assigned[pilot.id]), drain=pilot.id in draining) for pilot, _ in said]
    return answers, about_ids(SlotsOffered, asking, now=tx.now)


def fetch(tx: Transaction, pilot_id: int, known: Sequence[AttemptRef]) -> list[JobRow]:
    """`fetch_all` for one pilot, however long another transaction holds its slot."""
    lock_slot(tx, pilot_id)
    return fetch_all(tx, {pilot_id: known})[pilot_id]


def fetch_all(tx: Transaction, known: Mapping[int, Sequence[AttemptRef]]) -> Mapping[int, list[JobRow]]:
    """The assignments that waiting pilots do not know yet; room that is left stays on offer."""
    cores = {
        row.pilot_id: row.cores
        for row in tx.lock(select(slots.c.pilot_id, slots.c.cores).where(slots.c.pilot_id.in_(known)))
    }
    mine = of_pilots(tx, known)
    for job in mine:
        if (pilot_id := owned(job)[0]) in cores:  # one that drains has no slot any more
            cores[pilot_id] -= job.cores or 0
    full = [pilot_id for pilot_id, left in cores.items() if left <= 0]
    for state, ids in (("full", set(full)), ("parked", cores.keys() - set(full))):
        if ids:
            served = (slots.c.pilot_id.in_(ids), slots.c.state == "served")
            tx.run(update(slots).where(*served).values(state=state, wake_at=None))
    return _unconfirmed(mine, {pilot_id: _attempts(pilot_id, refs) for pilot_id, refs in known.items()})


def lock_slot(tx: Transaction, pilot_id: int) -> None:
    """Lock a pilot's slot, if it has one, however long another transaction holds it."""
    tx.lock(select(slots.c.pilot_id).where(slots.c.pilot_id == pilot_id))


def lock_free_slots(tx: Transaction, pilot_ids: Sequence[int]) -> set[int]:
    """Those of the locked pilots whose slot, if they have one, no other transaction holds: it is locked now.

    Matching holds hundreds of slots for the whole of its transaction; nobody shall wait for it with other pilots.
    """
    mine = select(slots.c.pilot_id).where(slots.c.pilot_id.in_(pilot_ids))
    there = {row.pilot_id for row in tx.rows(mine)}
    locked = {row.pilot_id for row in tx.lock(mine, skip_locked=True)}
    return set(pilot_ids) - (there - locked)


def served(tx: Transaction) -> frozenset[int]:
    """The pilots for which jobs wait."""
    return frozenset(row.pilot_id for row in tx.rows(select(slots.c.pilot_id).where(slots.c.state == "served")))


def _slot(
    tx: Transaction, pilot: PilotRow, request: OfferRequest, foreign: Sequence[Room], wake_after: float | None
) -> dict[str, Any]:
    """Without `wake_after` nobody need look at it: the pilot gets something at once."""
    return {
        "pilot_id": pilot.id,
        "vo_id": pilot.vo_id,
        "state": "parked" if wake_after is None else "offered",
        "cores": max(request.cores - sum(taken.cores for taken in foreign), 0),
        "memory": max(request.memory - sum(taken.memory for taken in foreign), 0),
        "disk": max(request.disk - sum(taken.disk for taken in foreign), 0),
        "gpus": max(request.gpus - sum(taken.gpus for taken in foreign), 0),
        "ends_at": tx.after(request.time_left),
        "offered_at": tx.now,
        "wake_at": None if wake_after is None else tx.after(wake_after),
    }


def _attempts(pilot_id: int, refs: Iterable[AttemptRef]) -> set[OfPilot]:
    return {(pilot_id, ref.job_id, ref.attempt) for ref in refs}


def _unconfirmed(mine: Iterable[JobRow], known: Mapping[int, AbstractSet[OfPilot]]) -> defaultdict[int, list[JobRow]]:
    """By pilot."""
    found: defaultdict[int, list[JobRow]] = defaultdict(list)
    for job in mine:
        pilot_id = owned(job)[0]
        if job.state is JobState.MATCHED and owned(job) not in known[pilot_id]:
            found[pilot_id].append(job)
    return found


def _foreign(
    tx: Transaction,
    vo_of: Mapping[int, int],
    mine: Iterable[JobRow],
    known: Mapping[int, AbstractSet[OfPilot]],
) -> defaultdict[int, list[Room]]:
    """What attempts take that a pilot still holds but that are not its own any more: that room is not free."""
    counted = {owned(job) for job in mine}
    others = [key for keys in known.values() for key in sorted(keys) if key not in counted]
    found: defaultdict[int, list[Room]] = defaultdict(list)
    if not others:
        return found
    names = ("id", "vo_id", "spec_id", "attempt", "cores", "memory", "disk", "gpus")
    query = select(*(jobs_table.c[name] for name in names))
    ids = sorted({job_id for _, job_id, _ in others})
    rows = {row.id: row for chunk in in_chunks(ids) for row in tx.rows(query.where(jobs_table.c.id.in_(chunk)))}
    templates = specs.load(tx, {row.spec_id for row in rows.values()})
    for pilot_id, job_id, attempt in others:
        row = rows.get(job_id)
        if row is not None and row.vo_id == vo_of[pilot_id]:
            found[pilot_id].append(_taken(row, attempt, templates[row.spec_id]))
    return found


def _taken(row: Row[Any], attempt: int, spec: Spec) -> Room:
    """What an attempt was granted, if the row still says so; else what it needs at the least."""
    if row.attempt == attempt and row.cores is not None:
        return Room(row.cores, row.memory, row.disk, row.gpus or 0)
    return spec.template.requirements.specifications()[0].least
