"""Messages that wait or gave up, as rows: deferrals, dead letters and their stamps, counted redeliveries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Row, Select, Table, delete, select, true, update

from pipeline.errors import BadInput, NotFound
from pipeline.store import tables
from pipeline.store.database import Transaction, in_chunks
from schemas.messages import Message

T = TypeVar("T")

REASON_LIMIT = 1_000
CLAIM = 60.0
"""Seconds for which whoever claimed a deferred message has it alone."""

_KEYS: Mapping[str, Column[int]] = {
    "slots": tables.slots.c.pilot_id,
    "autoclusters": tables.autoclusters.c.id,
    "jobs": tables.jobs.c.id,
    "files": tables.files.c.id,
    "steps": tables.steps.c.id,
    "site_queues": tables.site_queues.c.id,
}
"""The key that a message's ids are, by table; in the order in which rows are locked."""

Reader = Callable[[str, bytes], Message]
"""Makes a message of a queue's name and a payload; raises ValueError when it can't."""


@dataclass(frozen=True, slots=True)
class Deferral:
    """A message to be published again after `delay` seconds."""

    message: Message
    reason: str
    delay: float


@dataclass(frozen=True, slots=True)
class Burial:
    """A message that is never tried again; `message` is None where the payload can't be read."""

    queue: str
    message_id: str
    type: str
    payload: bytes
    reason: str
    attempts: int
    traceback: str | None = None
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """A deferred message as stored."""

    id: int
    queue: str
    payload: str


@dataclass(frozen=True, slots=True)
class Released:
    """A message that was a dead letter, and the deferral that keeps it until somebody has published it."""

    deferred_id: int
    message: Message


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as stored."""

    id: int
    message_id: str
    queue: str
    type: str
    payload: bytes
    reason: str
    traceback: str | None
    attempts: int
    created_at: datetime


_LETTER = tuple(tables.dead_letters.c[field.name] for field in fields(DeadLetter))


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters are meant; every condition that is set must hold. `reason` may stand anywhere in theirs."""

    queue: str | None = None
    type: str | None = None
    reason: str | None = None
    since: datetime | None = None
    ids: tuple[int, ...] | None = None

    def narrow(self, query: Select[Any]) -> Select[Any]:
        """`query` over dead_letters, with the conditions added."""
        letters = tables.dead_letters.c
        if self.queue is not None:
            query = query.where(letters.queue == self.queue)
        if self.type is not None:
            query = query.where(letters.type == self.type)
        if self.reason is not None:
            query = query.where(letters.reason.contains(self.reason, autoescape=True))
        if self.since is not None:
            query = query.where(letters.created_at >= self.since)
        if self.ids is not None:
            query = query.where(letters.id.in_(self.ids))
        return query


def defer(tx: Transaction, deferrals: Sequence[Deferral], *, wake_after: float) -> None:
    """Store messages for later.

    Their rows' `wake_at` moves to `wake_after` seconds after that, else reconcile would publish a second
    message about them meanwhile.
    """
    rows = [
        {
            "message_id": str(deferral.message.id),
            "queue": deferral.message.queue,
            "payload": deferral.message.encode().decode(),
            "reason": _storable(deferral.reason),
            "due_at": tx.after(deferral.delay),
        }
        for deferral in deferrals
    ]
    tx.add_all(tables.deferred_messages, rows)
    for deferral in _in_lock_order([(deferral.message, deferral) for deferral in deferrals]):
        _wake_later(tx, deferral.message, tx.after(deferral.delay + wake_after))


def due(tx: Transaction, limit: int, *, lease: float = CLAIM) -> list[Deferred]:
    """Up to `limit` messages that are due, claimed for `lease` seconds.

    Publish them and then `forget` them: if the caller dies between, they are due again when the lease is over.
    """
    deferred = tables.deferred_messages
    query = select(deferred.c.id, deferred.c.queue, deferred.c.payload)
    overdue = query.where(deferred.c.due_at <= tx.now).order_by(deferred.c.due_at, deferred.c.id).limit(limit)
    rows = tx.lock(overdue, skip_locked=True)
    for part in in_chunks([row.id for row in rows]):
        tx.run(update(deferred).where(deferred.c.id.in_(part)).values(due_at=tx.after(lease)))
    return [Deferred(row.id, row.queue, row.payload) for row in rows]


def forget(tx: Transaction, deferred_ids: Sequence[int]) -> None:
    """These deferred messages have been published."""
    for part in in_chunks(sorted(deferred_ids)):
        tx.run(delete(tables.deferred_messages).where(tables.deferred_messages.c.id.in_(part)))


def bury(tx: Transaction, burials: Sequence[Burial]) -> list[int]:
    """Store dead letters and stamp the rows that they name, so that reconcile leaves those alone; the letters' ids."""
    letters = [
        tx.add(
            tables.dead_letters,
            message_id=burial.message_id,
            queue=burial.queue,
            type=burial.type,
            payload=burial.payload,
            reason=_storable(burial.reason),
            traceback=burial.traceback,
            attempts=burial.attempts,
            created_at=tx.now,
        )
        for burial in burials
    ]
    named = [(burial.message, letter) for burial, letter in zip(burials, letters, strict=True) if burial.message]
    for message, letter in _in_lock_order([(message, (message, letter)) for message, letter in named]):
        _stamp(tx, message, letter)
    return letters


def list_dead(
    tx: Transaction, wanted: DeadLetterFilter, *, after: int | None = None, limit: int = 100
) -> list[DeadLetter]:
    """Dead letters, newest first, at most `limit`; `after` is the id of the last one of the page before."""
    query = wanted.narrow(select(*_LETTER))
    if after is not None:
        query = query.where(tables.dead_letters.c.id < after)
    rows = tx.rows(query.order_by(tables.dead_letters.c.id.desc()).limit(limit))
    return [_letter(row) for row in rows]


def show_dead(tx: Transaction, letter_id: int) -> DeadLetter:
    """One dead letter. Raises NotFound."""
    found = list_dead(tx, DeadLetterFilter(ids=(letter_id,)))
    if not found:
        raise NotFound(f"there is no dead letter {letter_id}; `penstock dead list` shows those there are")
    return found[0]


def requeue(tx: Transaction, letter_ids: Sequence[int], read: Reader, *, wake_after: float) -> list[Released]:
    """Bring dead letters back, at their first attempt and under fresh ids.

    Their rows are theirs again, to be woken in `wake_after` seconds. Each message is kept as a deferral
    until the caller has published it and called `forget`. Raises NotFound for an unknown letter and
    BadInput for one that can't be read; nothing is changed then.
    """
    letters = [_locked_letter(tx, letter_id) for letter_id in sorted(set(letter_ids))]
    messages = [_reborn(tx, letter, read) for letter in letters]
    both = list(zip(letters, messages, strict=True))
    for letter, message in _in_lock_order([(message, (letter, message)) for letter, message in both]):
        _clear(tx, message, letter.id, tx.after(wake_after))
    drop(tx, [letter.id for letter in letters])
    return [Released(_keep(tx, message), message) for message in messages]


def drop(tx: Transaction, letter_ids: Sequence[int]) -> int:
    """Delete dead letters; how many. Their rows stay stamped: nobody but a person wakes those again."""
    return sum(
        tx.run(delete(tables.dead_letters).where(tables.dead_letters.c.id.in_(part)))
        for part in in_chunks(sorted(set(letter_ids)))
    )


def count_redelivery(tx: Transaction, message_id: str) -> int:
    """Count a message that came again, before it runs; how often it has come again by now."""
    table = tables.redeliveries
    tx.add_missing(table, [{"message_id": message_id, "deliveries": 0, "at": tx.now}])
    mine = table.c.message_id == message_id
    tx.run(update(table).where(mine).values(deliveries=table.c.deliveries + 1, at=tx.now))
    return int(tx.scalar(select(table.c.deliveries).where(mine)))


def forget_redeliveries(tx: Transaction, message_ids: Sequence[str]) -> None:
    """These messages are dealt with."""
    if message_ids:
        tx.run(delete(tables.redeliveries).where(tables.redeliveries.c.message_id.in_(message_ids)))


def forget_old_redeliveries(tx: Transaction, age: float) -> int:
    """Drop counts that nobody touched for so many seconds, left by messages that were purged; how many."""
    return tx.run(delete(tables.redeliveries).where(tables.redeliveries.c.at < tx.after(-age)))


def _storable(reason: str) -> str:
    """Cut to the column, and without the half characters that no database takes."""
    return reason[:REASON_LIMIT].encode(errors="replace").decode()


def _in_lock_order(named: Sequence[tuple[Message, T]]) -> list[T]:
    """What goes with messages that name rows, ordered by the rows' tables: everybody locks in this order."""
    by_table: dict[str, list[T]] = defaultdict(list)
    for message, value in named:
        rows = message.body.rows
        if rows is not None and rows in _KEYS and message.body.ids():
            by_table[rows].append(value)
    return [value for name in _KEYS for value in by_table[name]]


def _rows_of(message: Message) -> tuple[Table, Column[int], list[int]]:
    assert message.body.rows is not None
    key = _KEYS[message.body.rows]
    return key.table, key, sorted(message.body.ids())


def _concerned(message: Message, table: Table) -> ColumnElement[bool]:
    """A row that has moved on since is somebody else's business: its own message must not be forgotten."""
    state = message.body.in_state
    return true() if state is None else table.c.state == state


def _wake_later(tx: Transaction, message: Message, moment: datetime) -> None:
    table, key, ids = _rows_of(message)
    for part in in_chunks(ids):
        sooner = table.c.wake_at < moment
        tx.run(update(table).where(key.in_(part), sooner, _concerned(message, table)).values(wake_at=moment))


def _stamp(tx: Transaction, message: Message, letter: int) -> None:
    table, key, ids = _rows_of(message)
    for part in in_chunks(ids):
        concerned = (key.in_(part), _concerned(message, table))
        tx.run(update(table).where(*concerned).values(dead_letter_id=letter, wake_at=None))


def _clear(tx: Transaction, message: Message, letter: int, moment: datetime) -> None:
    table, key, ids = _rows_of(message)
    for part in in_chunks(ids):
        mine = table.c.dead_letter_id == letter
        tx.run(update(table).where(key.in_(part), mine).values(dead_letter_id=None, wake_at=moment))


def _letter(row: Row[Any]) -> DeadLetter:
    values: Sequence[Any] = row
    return DeadLetter(*values)


def _locked_letter(tx: Transaction, letter_id: int) -> DeadLetter:
    rows = tx.lock(select(*_LETTER).where(tables.dead_letters.c.id == letter_id))
    if not rows:
        raise NotFound(f"there is no dead letter {letter_id}; `penstock dead list` shows those there are")
    return _letter(rows[0])


def _reborn(tx: Transaction, letter: DeadLetter, read: Reader) -> Message:
    try:
        message = read(letter.queue, letter.payload)
    except ValueError as error:
        raise BadInput(
            f"dead letter {letter.id} can't be requeued, since it can't be read ({error}); drop it instead"
        ) from error
    return Message.about(message.body, now=tx.now, trace=message.trace)


def _keep(tx: Transaction, message: Message) -> int:
    return tx.add(
        tables.deferred_messages,
        message_id=str(message.id),
        queue=message.queue,
        payload=message.encode().decode(),
        reason="requeued by hand",
        due_at=tx.after(CLAIM),
    )
