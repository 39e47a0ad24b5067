"""What a plan asks for, as rows: pilots requested, not wanted, or to drain; and what was planned, for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import uuid_utils.compat
from sqlalchemy import select, update

from pipeline.store import own_values
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.provisioning_rows import Place, Room
from pipeline.store.tables import pilots, queue_plans
from schemas.states import PILOT_PENDING, PilotState

NO_WORK = "there is no work for it"
_MOST_WHY = 500


@dataclass(frozen=True, slots=True)
class PlanNote:
    """What was planned for one VO at one site queue."""

    place: Place
    low_cycles: int
    wanted: int
    requested: int
    removed: int
    drained: int
    hold_until: datetime | None
    why: str


def request_pilots(tx: Transaction, room: Room, count: int) -> None:
    """Note that so many pilots are wanted; carrying it out submits them."""
    row = {
        "site_queue_id": room.site_queue_id,
        "site_id": room.site_id,
        "vo_id": room.vo_id,
        "state": PilotState.REQUESTED,
        "cores": room.entry.cores,
        "requested_at": tx.now,
    }
    tx.add_all(pilots, [{**row, "tag": uuid_utils.compat.uuid7().hex} for _ in range(count)])


def request_removal(tx: Transaction, pilot_ids: Sequence[int]) -> None:
    """Note that these pilots are not wanted, unless they have begun to run."""
    for chunk in in_chunks(sorted(pilot_ids)):
        pending = (pilots.c.id.in_(chunk), pilots.c.state.in_(PILOT_PENDING))
        tx.run(update(pilots).where(*pending).values(remove_requested=True))


def request_drain(tx: Transaction, pilot_ids: Sequence[int]) -> None:
    """Note that these pilots shall take no more jobs; one that got a job meanwhile ends when the job has ended."""
    for chunk in in_chunks(sorted(pilot_ids)):
        runs = (pilots.c.id.in_(chunk), pilots.c.state == PilotState.RUNNING, ~pilots.c.drain_requested)
        tx.run(update(pilots).where(*runs).values(drain_requested=True, reason=NO_WORK))


def note_plans(tx: Transaction, cycle: int, notes: Sequence[PlanNote]) -> None:
    """Keep what was planned, as a whole; only rows that change are written, `cycle` says when one did last."""
    known = {(row.site_queue_id, row.vo_id): row for row in tx.rows(select(queue_plans))}
    rows = []
    for note in notes:
        row = known.pop(note.place, None)
        before = None if row is None else PlanNote(note.place, *(getattr(row, name) for name in _NOTED))
        values = {name: getattr(note, name) for name in _NOTED} | {"why": note.why[:_MOST_WHY]}
        if before != PlanNote(note.place, **values):
            rows.append({"site_queue_id": note.place[0], "vo_id": note.place[1], "cycle": cycle, **values})
    own_values.remove(tx, queue_plans, ("site_queue_id", "vo_id"), sorted(known))
    tx.put(queue_plans, rows, ("cycle", *_NOTED))


_NOTED = ("low_cycles", "wanted", "requested", "removed", "drained", "hold_until", "why")
