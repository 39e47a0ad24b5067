"""Ticks as rows: claimed, published, executed. At least once published, effective once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select, update

from pipeline.store.database import Transaction
from pipeline.store.tables import trigger_runs
from pipeline.transport.port import Depth

CLAIM = 10.0
"""Seconds until a claim that was not published may be taken over."""
_ROUNDING = 2.0
"""Seconds by which the broker's clock and ours may differ about one message."""
_DOUBT = 600.0
"""Seconds for which a tick that may be lost or not counts as pending: longer than a consumer's stop for an upgrade."""


@dataclass(frozen=True, slots=True)
class Run:
    """One tick of one trigger."""

    name: str
    scheduled_for: datetime


def last_scheduled(tx: Transaction, name: str) -> datetime | None:
    """The latest tick of a trigger that somebody claimed or skipped."""
    moment: datetime | None = tx.scalar(
        select(func.max(trigger_runs.c.scheduled_for)).where(trigger_runs.c.name == name)
    )
    return moment


def last_told(tx: Transaction, name: str) -> datetime | None:
    """The latest tick of a trigger that was published, or skipped."""
    told = trigger_runs.c.published_at.is_not(None) | trigger_runs.c.skipped
    query = select(trigger_runs.c.scheduled_for).where(trigger_runs.c.name == name, told)
    row = tx.first(query.order_by(trigger_runs.c.scheduled_for.desc()))
    return None if row is None else row.scheduled_for


def claim(tx: Transaction, run: Run, instance: str, *, skipped: bool = False) -> bool:
    """Whether this tick is the caller's to publish; `skipped` records one that is not to be published at all."""
    row = {
        "name": run.name,
        "scheduled_for": run.scheduled_for,
        "claimed_by": instance,
        "claimed_at": tx.now,
        "skipped": skipped,
    }
    return tx.add_missing(trigger_runs, [row]) == 1


def take_over(tx: Transaction, instance: str) -> list[Run]:
    """Ticks that were claimed and not published in time, now the caller's."""
    query = select(trigger_runs.c.name, trigger_runs.c.scheduled_for).where(*_left(tx))
    runs = [Run(row.name, row.scheduled_for) for row in tx.lock(query, skip_locked=True)]
    for run in runs:
        tx.run(update(trigger_runs).where(*_is(run)).values(claimed_by=instance, claimed_at=tx.now))
    return runs


def mark_published(tx: Transaction, runs: Sequence[Run]) -> None:
    """The broker has confirmed these ticks."""
    for run in runs:
        tx.run(update(trigger_runs).where(*_is(run)).values(published_at=tx.now))


def mark_executed(tx: Transaction, run: Run) -> bool:
    """Whether the caller is the first to execute this tick; to be asked in the transaction of its effect."""
    return (
        tx.run(update(trigger_runs).where(*_is(run), trigger_runs.c.executed_at.is_(None)).values(executed_at=tx.now))
        == 1
    )


def is_pending(tx: Transaction, name: str, depth: Depth) -> bool:
    """Whether an earlier tick of the trigger is published, not executed, and by its queue's depth still there.

    A queue whose oldest message is younger than the tick's publication has lost it, unless a consumer has it. Where
    nobody knows, the tick has the benefit of the doubt for ten minutes.
    """
    query = select(func.max(trigger_runs.c.published_at)).where(
        trigger_runs.c.name == name, trigger_runs.c.executed_at.is_(None), trigger_runs.c.skipped.is_(False)
    )
    published_at = tx.scalar(query)
    if published_at is None:
        return False
    since = (tx.now - published_at).total_seconds()
    if depth.ready != 0 and depth.oldest_age is not None and depth.oldest_age + _ROUNDING >= since:
        return True
    is_gone = depth.in_flight == 0 and (depth.ready == 0 or depth.oldest_age is not None)
    return not is_gone and since <= _DOUBT


def any_left(tx: Transaction) -> bool:
    """Whether a claim was not published in time."""
    return tx.first(select(trigger_runs.c.name).where(*_left(tx))) is not None


def skip(tx: Transaction, run: Run) -> None:
    """This tick is not to be published any more."""
    tx.run(update(trigger_runs).where(*_is(run)).values(skipped=True))


def forget_before(tx: Transaction, moment: datetime) -> int:
    """Delete the rows of ticks scheduled before `moment`; how many."""
    return tx.run(delete(trigger_runs).where(trigger_runs.c.scheduled_for < moment))


def _left(tx: Transaction) -> tuple[ColumnElement[bool], ...]:
    return (
        trigger_runs.c.published_at.is_(None),
        trigger_runs.c.skipped.is_(False),
        trigger_runs.c.claimed_at < tx.after(-CLAIM),
    )


def _is(run: Run) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return trigger_runs.c.name == run.name, trigger_runs.c.scheduled_for == run.scheduled_for
