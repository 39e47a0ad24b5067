"""Pilots that a person asks for: as a whole or not at all, within every limit that provisioning keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Row, func, select

from pipeline.errors import BadInput, Conflict, NotFound
from pipeline.store.bans import banned_queues
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.pilot_caps import caps
from pipeline.store.provisioning import lock_cycle
from pipeline.store.provisioning_orders import new_tags, request_pilots
from pipeline.store.provisioning_rows import Cap, Room
from pipeline.store.queue_backoff import left_alone
from pipeline.store.tables import pilots, site_queues, sites
from schemas.sites import SiteQueueEntry
from schemas.states import PILOT_LIVE, PILOT_PENDING, PilotState

_TAGS = UUID("6f1c2a52-6a0e-4b57-9f6e-0d6b1f5f7c11")
"""Of which the tags are made that an Idempotency-Key stands for."""


@dataclass(frozen=True, slots=True)
class Order:
    """So many pilots of one VO for one site queue. A `key` of one person's orders them once, however often it comes."""

    vo_id: int
    vo: str
    identity_id: int
    site: str
    queue: str
    count: int
    key: str | None = None

    @property
    def label(self) -> str:
        """The queue as people write it."""
        return f"{self.site}/{self.queue}"


@dataclass(frozen=True, slots=True)
class Ordered:
    """The pilots, their site queue, and why they may take a while."""

    pilot_ids: tuple[int, ...]
    site_queue_id: int
    warnings: tuple[str, ...]


def request(tx: Transaction, order: Order) -> Ordered:
    """Note that these pilots are wanted; the next round of their queue submits them.

    Raises NotFound for a queue that nobody knows, BadInput for one that is not the VO's or takes other numbers,
    Conflict that names the limit, or the ban, that is in the way.
    """
    since = lock_cycle(tx)
    row = _queue(tx, order)
    entry = SiteQueueEntry.model_validate_json(row.entry)
    _check(tx, order, row, entry)
    tags = _tags(order)
    warnings = tuple(_warnings(tx, order, row))
    before = _known(tx, tags)
    if before:
        _check_repeated(order, before, row.id)
        return Ordered(tuple(pilot.id for pilot in before), row.id, warnings)
    room = Room(row.id, row.site_id, order.site, order.vo_id, entry)
    over_several = [cap for cap in caps(tx) if cap.covers(room.place)]
    _check_caps(tx, order, [_own(order, row.id, entry), *over_several], since)
    request_pilots(tx, [(room, tag) for tag in tags[: order.count]])
    return Ordered(tuple(pilot.id for pilot in _known(tx, tags)), row.id, warnings)


def _queue(tx: Transaction, order: Order) -> Row[Any]:
    query = (
        select(site_queues, sites.c.declared.label("site_declared"))
        .join(sites, sites.c.id == site_queues.c.site_id)
        .where(sites.c.name == order.site, site_queues.c.name == order.queue)
    )
    row = tx.first(query)
    if row is None:
        raise NotFound(f"there is no site queue {order.label}; `penstock sites list` shows what there is")
    return row


def _check(tx: Transaction, order: Order, row: Row[Any], entry: SiteQueueEntry) -> None:
    if not (row.declared and row.site_declared):
        raise Conflict(f"{order.label} is declared no more; `penstock sites apply` declares it")
    if order.vo not in entry.vos:
        raise BadInput(f"{order.label} is for {', '.join(entry.vos)}, not for your VO {order.vo}", field="queue")
    if order.count % entry.nodes:
        raise BadInput(
            f"a batch job of {order.label} is {entry.nodes} pilots, one for each of its nodes; ask for a multiple of "
            f"that, not for {order.count}",
            field="count",
        )
    if {(row.id, None), (row.id, order.vo_id)} & banned_queues(tx):
        raise Conflict(f"{order.label} is banned; `penstock sites list` says why, `penstock sites allow` lifts it")


def _warnings(tx: Transaction, order: Order, row: Row[Any]) -> Iterator[str]:
    if row.dead_letter_id is not None:
        yield f"nobody looks at {order.label} until dead letter {row.dead_letter_id} is dealt with"
    if alone := left_alone(row.backoff_until, row.reason, tx.now):
        until, why = alone
        yield f"{order.label} is left alone until {until:%Y-%m-%d %H:%M:%S} UTC: {why}"


def _tags(order: Order) -> list[str]:
    """With a key always the same ones, and one more, which a larger order with that key would have."""
    if order.key is None:
        return new_tags(order.count)
    whose = f"{order.identity_id} {order.key}"
    return [uuid5(_TAGS, f"{whose} {number}").hex for number in range(order.count + 1)]


def _known(tx: Transaction, tags: Sequence[str]) -> list[Row[Any]]:
    columns = select(pilots.c.id, pilots.c.site_queue_id)
    found = [row for chunk in in_chunks(tags) for row in tx.rows(columns.where(pilots.c.tag.in_(chunk)))]
    return sorted(found, key=lambda row: row.id)


def _check_repeated(order: Order, before: Sequence[Row[Any]], queue_id: int) -> None:
    if len(before) != order.count or {pilot.site_queue_id for pilot in before} != {queue_id}:
        raise Conflict(f"the Idempotency-Key {order.key!r} belongs to another request; use a new one")


def _own(order: Order, queue_id: int, entry: SiteQueueEntry) -> Cap:
    return Cap(f"queue {order.label}", entry.caps, frozenset({queue_id}))


def _check_caps(tx: Transaction, order: Order, covering: Iterable[Cap], since: datetime) -> None:
    """Each limit that these pilots count in; `since`: when the cycle of provisioning began."""
    for cap in covering:
        there = _counted(tx, cap, since)
        limits = (
            ("max_pilots", cap.limits.max_pilots, there.live, "pilots are there"),
            ("max_pending_pilots", cap.limits.max_pending_pilots, there.pending, "pilots do not run yet"),
            ("max_submissions", cap.limits.max_submissions, there.new, "new pilots in this cycle"),
        )
        for name, most, many, what in limits:
            if most is not None and many + order.count > most:
                raise Conflict(f"{name} of {cap.label} is {most} and {many} {what}: no room for {order.count} more")
        held = cap.limits.max_held_pilots
        if held is not None and there.held >= held:
            raise Conflict(f"max_held_pilots of {cap.label} is {held} and {there.held} pilots are held: none is added")


@dataclass(frozen=True, slots=True)
class _There:
    live: int
    pending: int
    held: int
    new: int


def _counted(tx: Transaction, cap: Cap, since: datetime) -> _There:
    covered = [] if cap.vo_id is None else [pilots.c.vo_id == cap.vo_id]
    if cap.queues is not None:
        covered.append(pilots.c.site_queue_id.in_(sorted(cap.queues)))
    of_states = select(pilots.c.state, func.count().label("many")).where(pilots.c.state.in_(PILOT_LIVE), *covered)
    many = {row.state: row.many for row in tx.rows(of_states.group_by(pilots.c.state))}
    new = 0
    if cap.limits.max_submissions is not None:
        if cap.queues is None:
            covered.append(pilots.c.site_queue_id.in_(select(site_queues.c.id)))  # for the index's sake
        query = select(func.count()).select_from(pilots).where(pilots.c.requested_at >= since, *covered)
        new = int(tx.scalar(query))
    pending = sum(many.get(state, 0) for state in PILOT_PENDING)
    return _There(sum(many.values()), pending, many.get(PilotState.HELD, 0), new)
