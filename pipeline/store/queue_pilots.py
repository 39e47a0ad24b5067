"""The pilots of one site queue while somebody carries out what is planned for it: lease, states, back-off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, or_, select, update

from pipeline.store.database import Transaction, in_chunks
from pipeline.store.pilots import MAX_REASON
from pipeline.store.tables import pilots, site_queues, sites
from schemas.sites import SiteQueueEntry
from schemas.states import PILOT_FINAL, PilotState

MAX_HANDLE = 200
"""Characters that the row keeps of what the batch system calls a pilot."""


@dataclass(frozen=True, slots=True)
class BatchPilot:
    """A pilot that has not ended, as the rows know it."""

    id: int
    tag: str
    vo_id: int
    state: PilotState
    remove_requested: bool
    submitted_at: datetime | None
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class LeasedQueue:
    """A site queue that is ours until its lease ends."""

    id: int
    label: str
    entry: SiteQueueEntry
    failures: int
    now: datetime
    pilots: tuple[BatchPilot, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A pilot that is still pending and changes its state."""

    pilot_id: int
    to: PilotState
    reason: str = ""


def lease(tx: Transaction, site_queue_id: int, owner: str, seconds: float) -> LeasedQueue | None:
    """Take the queue for so long; None when another has it, when it backs off, or when there is none."""
    free = (
        site_queues.c.id == site_queue_id,
        or_(site_queues.c.lease_until.is_(None), site_queues.c.lease_until <= tx.now),
        or_(site_queues.c.backoff_until.is_(None), site_queues.c.backoff_until <= tx.now),
    )
    if not tx.run(update(site_queues).where(*free).values(lease_owner=owner, lease_until=tx.after(seconds))):
        return None
    row = tx.first(
        select(site_queues, sites.c.name.label("site"))
        .join(sites, sites.c.id == site_queues.c.site_id)
        .where(site_queues.c.id == site_queue_id)
    )
    assert row is not None
    entry = SiteQueueEntry.model_validate_json(row.entry)
    return LeasedQueue(row.id, f"{row.site}.{row.name}", entry, row.failures, tx.now, tuple(_pilots(tx, row.id)))


def release(tx: Transaction, queue: LeasedQueue, owner: str, *, healthy: bool) -> None:
    """Give the queue back after a round without trouble; `healthy`: pilots run there, so failures are forgotten."""
    failures = 0 if healthy else queue.failures
    _give_back(tx, queue, owner, {"failures": failures, "backoff_until": None, "reason": None})


def back_off(tx: Transaction, queue: LeasedQueue, owner: str, seconds: float, reason: str) -> None:
    """Give the queue back and leave it alone for a while."""
    state = {"failures": queue.failures + 1, "backoff_until": tx.after(seconds), "reason": reason[:MAX_REASON]}
    _give_back(tx, queue, owner, state)


def move_pending(tx: Transaction, moves: Iterable[Move]) -> None:
    """Pilots that have not enrolled follow the batch system; one that has enrolled meanwhile is left alone."""
    groups: defaultdict[tuple[PilotState, str], list[int]] = defaultdict(list)
    for move in moves:
        groups[move.to, move.reason].append(move.pilot_id)
    for (to, reason), ids in groups.items():
        values: dict[str, Any] = {"state": to, "reason": reason[:MAX_REASON] or None}
        if to in PILOT_FINAL:
            values["ended_at"] = tx.now
        for chunk in in_chunks(sorted(ids)):
            pending = (pilots.c.id.in_(chunk), pilots.c.token_digest.is_(None), pilots.c.state.not_in(PILOT_FINAL))
            tx.run(update(pilots).where(*pending).values(values))


def submitted(tx: Transaction, handles: Mapping[str, str]) -> None:
    """These tags are known to the batch system, under these handles."""
    for chunk in in_chunks(sorted(handles)):
        named = case({tag: handles[tag][:MAX_HANDLE] for tag in chunk}, value=pilots.c.tag)
        mine = pilots.c.tag.in_(chunk)
        tx.run(update(pilots).where(mine).values(batch_id=named, submitted_at=tx.now))
        tx.run(update(pilots).where(mine, pilots.c.state == PilotState.REQUESTED).values(state=PilotState.SUBMITTED))


def _give_back(tx: Transaction, queue: LeasedQueue, owner: str, state: Mapping[str, Any]) -> None:
    mine = (site_queues.c.id == queue.id, site_queues.c.lease_owner == owner)
    tx.run(update(site_queues).where(*mine).values(lease_owner=None, lease_until=None, **state))


def _pilots(tx: Transaction, site_queue_id: int) -> Sequence[BatchPilot]:
    query = select(*(pilots.c[name] for name in BatchPilot.__slots__))
    mine = (pilots.c.site_queue_id == site_queue_id, pilots.c.state.not_in(PILOT_FINAL))
    return [
        BatchPilot(**{**row._asdict(), "state": PilotState(row.state)})
        for row in tx.rows(query.where(*mine).order_by(pilots.c.id))
    ]
