"""How far something has been counted: a row of `controls` that whoever counts on holds locked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, select, update
from sqlalchemy.exc import DBAPIError

from pipeline.store.database import Transaction
from pipeline.store.tables import controls

_HELD_CODES = frozenset({1205, 3572})
"""What MariaDB and MySQL answer to NOWAIT."""


class Held(Exception):
    """Somebody has not committed yet what is to be counted: it is left for the next time."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where it is counted, and when that was noted."""

    value: int
    at: datetime


def lock(tx: Transaction, name: str, *, begin: int = 0) -> Mark:
    """The mark, locked until the transaction ends; made where there is none, at `begin`."""
    query = select(controls.c.value, controls.c.at).where(controls.c.name == name)
    rows = tx.lock(query)
    if not rows:
        tx.add_missing(controls, [{"name": name, "value": begin, "since": tx.now, "at": tx.now}])
        rows = tx.lock(query)
    return Mark(rows[0].value, rows[0].at)


def read(tx: Transaction, name: str) -> Mark | None:
    """The mark as it is."""
    row = tx.first(select(controls.c.value, controls.c.at).where(controls.c.name == name))
    return None if row is None else Mark(row.value, row.at)


def move(tx: Transaction, name: str, value: int, at: datetime) -> None:
    """Note how far it is counted."""
    tx.run(update(controls).where(controls.c.name == name).values(value=value, at=at))


def committed(tx: Transaction, query: Select[Any]) -> Sequence[Row[Any]]:
    """The rows of a query over one table. Raises Held where a transaction is open that has changed some of them.

    Else they would be left out, as if they did not exist, and be passed by for good. (SQLite: nobody else writes.)
    """
    try:
        return tx.connection.execute(query.with_for_update(read=True, nowait=True)).all()
    except DBAPIError as error:
        if error.orig is not None and error.orig.args and error.orig.args[0] in _HELD_CODES:
            raise Held(str(error.orig)) from error
        raise
