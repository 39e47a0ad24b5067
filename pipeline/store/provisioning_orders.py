"""What a plan asks for, as rows: pilots requested, not wanted, or to drain; and what it leaves to the next one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import uuid_utils.compat
from sqlalchemy import update

from pipeline.store import own_values
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.provisioning_rows import Past, Place, Room
from pipeline.store.tables import pilots, queue_plans
from schemas.states import PILOT_PENDING, PilotState

NO_WORK = "there is no work for it"


def new_tags(count: int) -> list[str]:
    """Names for so many pilots, by which batch systems know them."""
    return [uuid_utils.compat.uuid7().hex for _ in range(count)]


def request_pilots(tx: Transaction, wanted: Iterable[tuple[Room, str]]) -> None:
    """Note where pilots are wanted, and by what tags; the next rounds of their queues submit them."""
    rows = [
        {
            "tag": tag,
            "site_queue_id": room.site_queue_id,
            "site_id": room.site_id,
            "vo_id": room.vo_id,
            "state": PilotState.REQUESTED,
            "cores": room.entry.cores,
            "requested_at": tx.now,
        }
        for room, tag in wanted
    ]
    tx.add_all(pilots, rows)


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


def keep_past(tx: Transaction, before: Mapping[Place, Past], after: Mapping[Place, Past]) -> None:
    """Keep what a cycle leaves to the next one in place of what it found; only rows that change are written."""
    own_values.remove(tx, queue_plans, ("site_queue_id", "vo_id"), sorted(before.keys() - after.keys()))
    rows = [
        {"site_queue_id": queue, "vo_id": vo, "low_cycles": past.low_cycles, "hold_until": past.hold_until}
        for (queue, vo), past in after.items()
        if before.get((queue, vo)) != past
    ]
    tx.put(queue_plans, rows, ("low_cycles", "hold_until"))
