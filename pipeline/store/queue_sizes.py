"""What consumers have done per queue, and the last measurement of each queue, which all API processes share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, case, func, select, update

from pipeline.scaling import Size
from pipeline.store.database import Transaction
from pipeline.store.tables import deferred_messages, queue_sizes, queue_work


@dataclass(frozen=True, slots=True)
class Work:
    """What was done of a queue: messages that were done or died, seconds of worker slots that this took."""

    queue: str
    settled: int = 0
    busy_seconds: float = 0.0

    def since(self, told: Work | None) -> Work:
        """What was done since `told`, which is an earlier account of the same queue."""
        if told is None:
            return self
        return Work(self.queue, self.settled - told.settled, self.busy_seconds - told.busy_seconds)

    def plus(self, other: Work) -> Work:
        """Both together."""
        return Work(self.queue, self.settled + other.settled, self.busy_seconds + other.busy_seconds)

    @property
    def is_none(self) -> bool:
        """Whether nothing was settled: then its seconds are told with the next that is."""
        return self.settled <= 0


@dataclass(frozen=True, slots=True)
class PutOff:
    """Deferred messages of a queue: those that are due, and those that are not yet."""

    due: int = 0
    later: int = 0


_RECENT = 600.0
"""Seconds."""
_COLUMNS = tuple(queue_sizes.c[each.name] for each in fields(Size))


def add_work(tx: Transaction, done: Iterable[Work]) -> None:
    """Add to the totals, queue by queue in the order of their names, since others do so at the same time.

    Where a commit's answer is lost (nobody knows then) it may be added twice: a second's work, which measurements bear.
    """
    for work in sorted(done, key=lambda each: each.queue):
        table = queue_work
        more = {
            "settled": table.c.settled + work.settled,
            "busy_seconds": table.c.busy_seconds + work.busy_seconds,
        }
        if not tx.run(update(table).where(table.c.queue == work.queue).values(more)):
            tx.add_missing(table, [{"queue": work.queue, "settled": 0, "busy_seconds": 0.0}])
            tx.run(update(table).where(table.c.queue == work.queue).values(more))


def all_work(tx: Transaction) -> dict[str, Work]:
    """What was ever done, by queue."""
    return {row.queue: Work(row.queue, row.settled, row.busy_seconds) for row in tx.rows(select(queue_work))}


def put_off(tx: Transaction) -> dict[str, PutOff]:
    """The deferred messages, by queue."""
    due = func.sum(case((deferred_messages.c.due_at <= tx.now, 1), else_=0)).label("due")
    query = select(deferred_messages.c.queue, due, func.count().label("whole")).group_by(deferred_messages.c.queue)
    return {row.queue: PutOff(int(row.due), row.whole - int(row.due)) for row in tx.rows(query)}


def sizes(tx: Transaction) -> dict[str, Size]:
    """The last measurements, by queue."""
    return {row.queue: _size(row) for row in tx.rows(select(*_COLUMNS))}


def recent_sizes(tx: Transaction) -> dict[str, Size]:
    """Those that are recent enough to be shown to people."""
    return {queue: size for queue, size in sizes(tx).items() if age(size, tx.now) < _RECENT}


def keep(tx: Transaction, measured: Mapping[str, Size], before: Mapping[str, Size]) -> dict[str, Size]:
    """Store measurements that go on from those of `before`; where another process was faster, its own stands. Those
    that are stored then."""
    for queue, size in sorted(measured.items()):
        values = asdict(size)
        if queue in before:
            unchanged = queue_sizes.c.measured_at == before[queue].measured_at
            tx.run(update(queue_sizes).where(queue_sizes.c.queue == queue, unchanged).values(values))
        else:
            tx.add_missing(queue_sizes, [values])
    return {queue: size for queue, size in sizes(tx).items() if queue in measured}


def age(size: Size, now: datetime) -> float:
    """Seconds since it was measured, both by the database's clock."""
    return (now - size.measured_at).total_seconds()


def _size(row: Row[Any]) -> Size:
    values: Sequence[Any] = row
    return Size(*values)
