"""The pilots of site queues while somebody carries out what is planned for them: leases, states, back-off.

A lease fences: whoever has lost it, since it ended or since its holder did not answer, can write nothing any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, or_, select, update

from pipeline.store.database import Transaction, in_chunks
from pipeline.store.pilots import MAX_REASON, wanted_when_over
from pipeline.store.queue_backoff import is_at_work
from pipeline.store.tables import pilots, site_queues, sites, vos
from schemas.sites import SiteQueueEntry
from schemas.states import PILOT_FINAL, PILOT_LIVE, PilotState

MAX_HANDLE = 200
"""Characters that the row keeps of what the batch system calls a pilot."""
MOST_OVER = 500
"""Ended pilots of a queue that a round looks after at the most."""


class LeaseLost(Exception):
    """The site queue is another's by now: what this round knows is old, and nothing of it is written."""


@dataclass(frozen=True, slots=True)
class BatchPilot:
    """A pilot that has not ended, or whose output is wanted, as the rows know it."""

    id: int
    tag: str
    vo_id: int
    state: PilotState
    remove_requested: bool
    submitted_at: datetime | None
    last_seen: datetime | None
    reason: str = ""
    batch_id: str | None = None
    releases: int = 0
    held_at: datetime | None = None
    """Since when it is held, or was released last."""
    runs_since: datetime | None = None
    """When the batch system said first that it runs."""
    ended_at: datetime | None = None
    output_wanted_at: datetime | None = None
    vo: str = ""

    @property
    def batch_job(self) -> str | None:
        """What the pilots of one batch job of several nodes have in common."""
        return None if self.batch_id is None else self.batch_id.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class LeasedQueue:
    """A site queue that is ours until its lease ends."""

    id: int
    label: str
    entry: SiteQueueEntry
    owner: str
    failures: int
    pilots: tuple[BatchPilot, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A pilot that is still pending and changes its state, or why it is in it."""

    pilot_id: int
    to: PilotState
    reason: str = ""
    runs: bool = False
    unwanted: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What a batch system calls a pilot that it took, and when the proxy that it runs with ends."""

    handle: str
    proxy_ends_at: datetime | None = None


def lease(tx: Transaction, site_queue_ids: Iterable[int], owner: str, seconds: float) -> list[LeasedQueue]:
    """Take those of the queues for so long that no other has and that do not back off."""
    free = (
        site_queues.c.id.in_(sorted(site_queue_ids)),
        or_(site_queues.c.lease_until.is_(None), site_queues.c.lease_until <= tx.now),
        is_at_work(tx.now),
    )
    ids = [row.id for row in tx.lock(select(site_queues.c.id).where(*free).order_by(site_queues.c.id))]
    if not ids:
        return []
    mine = site_queues.c.id.in_(ids)
    tx.run(update(site_queues).where(mine).values(lease_owner=owner, lease_until=tx.after(seconds)))
    query = select(site_queues, sites.c.name.label("site")).join(sites, sites.c.id == site_queues.c.site_id)
    rows = tx.rows(query.where(mine).order_by(site_queues.c.id))
    known = _pilots(tx, ids)
    return [
        LeasedQueue(
            row.id,
            f"{row.site}.{row.name}",
            SiteQueueEntry.model_validate_json(row.entry),
            owner,
            row.failures,
            tuple(known[row.id]),
        )
        for row in rows
    ]


def fence(tx: Transaction, queue: LeasedQueue) -> None:
    """Make sure that the queue is ours, and stays so until the transaction ends. Raises LeaseLost."""
    mine = (site_queues.c.id == queue.id, site_queues.c.lease_owner == queue.owner)
    if not tx.lock(select(site_queues.c.id).where(*mine)):
        raise LeaseLost


def release(tx: Transaction, queue: LeasedQueue, *, healthy: bool) -> None:
    """Give a queue that is ours back after a round without trouble; `healthy`: pilots run there, so failures are
    forgotten."""
    failures = 0 if healthy else queue.failures
    _give_back(tx, queue, {"failures": failures, "backoff_until": None, "reason": None})


def back_off(tx: Transaction, queue: LeasedQueue, failures: int, seconds: float, reason: str) -> None:
    """Give a queue that is ours back and leave it alone for a while."""
    state = {"failures": failures, "backoff_until": tx.after(seconds), "reason": reason[:MAX_REASON]}
    _give_back(tx, queue, state)


def move_pending(tx: Transaction, moves: Iterable[Move]) -> None:
    """Pilots that have not enrolled follow the batch system; one that has enrolled meanwhile is left alone."""
    groups: defaultdict[tuple[PilotState, str, bool, bool], list[int]] = defaultdict(list)
    for move in moves:
        groups[move.to, move.reason, move.runs, move.unwanted].append(move.pilot_id)
    for (to, reason, runs, unwanted), ids in groups.items():
        values: dict[str, Any] = {"state": to, "reason": reason[:MAX_REASON] or None}
        if to in PILOT_FINAL:
            values |= {"ended_at": tx.now, "output_wanted_at": wanted_when_over(tx)}
        else:
            values["runs_since"] = func.coalesce(pilots.c.runs_since, tx.now) if runs else None
            values["held_at"] = func.coalesce(pilots.c.held_at, tx.now) if to is PilotState.HELD else None
        if unwanted:
            values["remove_requested"] = True
        for chunk in in_chunks(sorted(ids)):
            pending = (pilots.c.id.in_(chunk), pilots.c.token_digest.is_(None), pilots.c.state.not_in(PILOT_FINAL))
            tx.run(update(pilots).where(*pending).values(values))


def submitted(tx: Transaction, taken: Mapping[str, Taken]) -> None:
    """These tags are known to the batch system, under these handles."""
    for chunk in in_chunks(sorted(taken)):
        named = case({tag: taken[tag].handle[:MAX_HANDLE] for tag in chunk}, value=pilots.c.tag)
        mine = pilots.c.tag.in_(chunk)
        tx.run(update(pilots).where(mine).values(batch_id=named, submitted_at=tx.now))
        tx.run(update(pilots).where(mine, pilots.c.state == PilotState.REQUESTED).values(state=PilotState.SUBMITTED))
    by_end: defaultdict[datetime | None, list[str]] = defaultdict(list)
    for tag, one in taken.items():
        by_end[one.proxy_ends_at].append(tag)
    for ends_at, tags in by_end.items():
        if ends_at is not None:
            for chunk in in_chunks(sorted(tags)):
                tx.run(update(pilots).where(pilots.c.tag.in_(chunk)).values(proxy_ends_at=ends_at))


def released(tx: Transaction, pilot_ids: Sequence[int]) -> None:
    """These held pilots were told to go on."""
    for chunk in in_chunks(sorted(pilot_ids)):
        held = (pilots.c.id.in_(chunk), pilots.c.state == PilotState.HELD)
        tx.run(update(pilots).where(*held).values(releases=pilots.c.releases + 1, held_at=tx.now))


def collected(tx: Transaction, pilot_ids: Sequence[int], fetched: Iterable[int]) -> None:
    """Nobody waits for the outputs of these pilots any more; those of `fetched` are kept."""
    for chunk in in_chunks(sorted(pilot_ids)):
        tx.run(update(pilots).where(pilots.c.id.in_(chunk)).values(output_wanted_at=None))
    for chunk in in_chunks(sorted(fetched)):
        tx.run(update(pilots).where(pilots.c.id.in_(chunk)).values(output_at=tx.now))


def _give_back(tx: Transaction, queue: LeasedQueue, state: Mapping[str, Any]) -> None:
    mine = (site_queues.c.id == queue.id, site_queues.c.lease_owner == queue.owner)
    tx.run(update(site_queues).where(*mine).values(lease_owner=None, lease_until=None, **state))


def _pilots(tx: Transaction, site_queue_ids: Sequence[int]) -> Mapping[int, list[BatchPilot]]:
    """By queue: those that have not ended, and the longest ended ones that somebody must still look after."""
    names = [name for name in BatchPilot.__slots__ if name in pilots.c]
    query = select(*(pilots.c[name] for name in names), pilots.c.site_queue_id, vos.c.name.label("vo"))
    mine = query.join(vos, vos.c.id == pilots.c.vo_id).where(pilots.c.site_queue_id.in_(site_queue_ids))
    live = tx.rows(mine.where(pilots.c.state.in_(PILOT_LIVE)).order_by(pilots.c.id))
    over = tx.rows(
        mine.where(pilots.c.output_wanted_at.is_not(None), pilots.c.state.in_(PILOT_FINAL))
        .order_by(pilots.c.output_wanted_at, pilots.c.id)
        .limit(MOST_OVER * len(site_queue_ids))
    )
    known: defaultdict[int, list[BatchPilot]] = defaultdict(list)
    ended: defaultdict[int, int] = defaultdict(int)
    for row in [*live, *over]:
        ended[row.site_queue_id] += row.state in PILOT_FINAL
        if ended[row.site_queue_id] <= MOST_OVER:
            values = {**row._asdict(), "state": PilotState(row.state), "reason": row.reason or ""}
            known[row.site_queue_id].append(BatchPilot(**{name: values[name] for name in BatchPilot.__slots__}))
    return known
