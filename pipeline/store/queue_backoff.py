"""Site queues whose batch systems have failed are left alone for a while: which ones, until when, and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select

from pipeline.store.database import Transaction
from pipeline.store.tables import site_queues


def left_alone(until: datetime | None, reason: str | None, now: datetime) -> tuple[datetime, str] | None:
    """Until when a site queue is left alone whose row says this, and why; None: it is not."""
    if until is None or until <= now:
        return None
    return until, reason or "its batch system failed"


def is_at_work(now: datetime) -> ColumnElement[bool]:
    """Whether a site queue is not left alone."""
    return or_(site_queues.c.backoff_until.is_(None), site_queues.c.backoff_until <= now)


def backoffs(tx: Transaction) -> Mapping[int, datetime]:
    """Until when site queues are left alone that are so now."""
    query = select(site_queues.c.id, site_queues.c.backoff_until).where(site_queues.c.backoff_until > tx.now)
    return {row.id: row.backoff_until for row in tx.rows(query)}
