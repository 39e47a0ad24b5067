"""Ticks as rows: claimed, published, executed. At least once published, effective once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select, update

from pipeline.store.database import Transaction
from pipeline.store.tables import trigger_runs

CLAIM = 10.0
"""Seconds until a claim that was not published may be taken over."""


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
    stale = (
        trigger_runs.c.published_at.is_(None),
        trigger_runs.c.skipped.is_(False),
        trigger_runs.c.claimed_at < tx.after(-CLAIM),
    )
    query = select(trigger_runs.c.name, trigger_runs.c.scheduled_for).where(*stale)
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


def is_pending(tx: Transaction, name: str, grace: float) -> bool:
    """Whether an earlier tick of the trigger, published within its grace, is still not executed."""
    query = select(trigger_runs.c.name).where(
        trigger_runs.c.name == name,
        trigger_runs.c.executed_at.is_(None),
        trigger_runs.c.skipped.is_(False),
        trigger_runs.c.scheduled_for > tx.after(-grace),
    )
    return tx.first(query) is not None


def forget_before(tx: Transaction, moment: datetime) -> int:
    """Delete the rows of ticks scheduled before `moment`; how many."""
    return tx.run(delete(trigger_runs).where(trigger_runs.c.scheduled_for < moment))


def _is(run: Run) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return trigger_runs.c.name == run.name, trigger_runs.c.scheduled_for == run.scheduled_for
