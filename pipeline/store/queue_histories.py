"""How site queues have treated pilots of late, counted by the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, case, func, select

from pipeline.store.database import Transaction
from pipeline.store.durations import seconds_between
from pipeline.store.provisioning_rows import History
from pipeline.store.tables import pilots
from schemas.states import PilotState

WINDOW = 24 * 3600.0
"""Seconds: of pilots that were requested before, nothing is counted."""


def histories(tx: Transaction) -> Mapping[int, History]:
    """By site queue; a queue without pilots in the window has none."""
    lately = pilots.c.requested_at > tx.after(-WINDOW)
    moved = _moved()
    failed = pilots.c.started_at.is_(None) & (pilots.c.state == PilotState.FAILED)
    query = (
        select(
            pilots.c.site_queue_id,
            func.count(pilots.c.submitted_at).label("submitted"),
            func.count(pilots.c.started_at).label("started"),
            func.sum(case((failed, 1), else_=0)).label("stillborn"),
            moved.label("moved"),
        )
        .where(lately)
        .group_by(pilots.c.site_queue_id)
    )
    times, vain = _queue_times(tx, lately), _vain(tx, lately)
    return {
        row.site_queue_id: History(
            submitted=row.submitted,
            started=row.started,
            stillborn=int(row.stillborn),
            queue_time=times.get(row.site_queue_id),
            moved=None if row.moved is None else max((tx.now - row.moved).total_seconds(), 0.0),
            vain=vain.get(row.site_queue_id, 0.0),
        )
        for row in tx.rows(query)
    }


def _moved() -> ColumnElement[Any]:
    """When a pilot of a group last began, or one that had begun ended."""
    ended = case((pilots.c.started_at.is_not(None) & pilots.c.ended_at.is_not(None), pilots.c.ended_at))
    return func.max(func.coalesce(ended, pilots.c.started_at))


def _queue_times(tx: Transaction, lately: ColumnElement[bool]) -> Mapping[int, float]:
    """The median of the seconds from request to start."""
    seconds = seconds_between(tx, pilots.c.requested_at, pilots.c.started_at)
    queue = pilots.c.site_queue_id
    ranked = (
        select(
            queue,
            seconds.label("seconds"),
            (2 * func.row_number().over(partition_by=queue, order_by=seconds)).label("twice"),
            func.count().over(partition_by=queue).label("many"),
        )
        .where(lately, pilots.c.started_at.is_not(None))
        .subquery()
    )
    middle = select(ranked).where(ranked.c.twice >= ranked.c.many, ranked.c.twice <= ranked.c.many + 1)
    return {row.site_queue_id: max(float(row.seconds), 0.0) for row in tx.rows(middle)}


def _vain(tx: Transaction, lately: ColumnElement[bool]) -> Mapping[int, float]:
    """The longest that a pilot which was taken back had waited in its batch system since anything moved there."""
    last = select(pilots.c.site_queue_id, _moved().label("moved")).where(lately).group_by(pilots.c.site_queue_id)
    moves = last.subquery()
    since = case((moves.c.moved > pilots.c.submitted_at, moves.c.moved), else_=pilots.c.submitted_at)
    query = (
        select(pilots.c.site_queue_id, func.max(seconds_between(tx, since, pilots.c.ended_at)).label("seconds"))
        .join(moves, moves.c.site_queue_id == pilots.c.site_queue_id)
        .where(
            lately,
            pilots.c.state == PilotState.REMOVED,
            pilots.c.started_at.is_(None),
            pilots.c.submitted_at.is_not(None),
            pilots.c.ended_at > func.coalesce(moves.c.moved, pilots.c.requested_at),
        )
        .group_by(pilots.c.site_queue_id)
    )
    return {row.site_queue_id: float(row.seconds) for row in tx.rows(query)}
