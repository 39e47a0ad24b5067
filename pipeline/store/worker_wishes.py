"""How many processes shall serve a queue under `penstock up`, where an operator said so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from pipeline.store.database import Transaction
from pipeline.store.tables import worker_wishes


@dataclass(frozen=True, slots=True)
class WorkerWish:
    """How many, by whom and since when."""

    queue: str
    workers: int
    wished_by: str
    wished_at: datetime


def wish_workers(tx: Transaction, queue: str, workers: int, by: str) -> None:
    """From now on so many processes shall serve the queue."""
    row = {"queue": queue, "workers": workers, "wished_by": by, "wished_at": tx.now}
    tx.put(worker_wishes, [row], ("workers", "wished_by", "wished_at"))


def wished_workers(tx: Transaction) -> dict[str, WorkerWish]:
    """What is wished, by queue."""
    rows = tx.rows(select(worker_wishes).order_by(worker_wishes.c.queue))
    return {row.queue: WorkerWish(row.queue, row.workers, row.wished_by, row.wished_at) for row in rows}
