"""How long something lasted, in SQL: the databases have different words for it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, literal_column

from pipeline.store.database import Transaction


def seconds_between(tx: Transaction, begin: ColumnElement[Any], end: ColumnElement[Any]) -> ColumnElement[Any]:
    """Between two moments of a row."""
    if tx.connection.dialect.name == "sqlite":
        return (func.julianday(end) - func.julianday(begin)) * 86_400.0
    microsecond: ColumnElement[Any] = literal_column("MICROSECOND")
    return func.timestampdiff(microsecond, begin, end) / 1e6
