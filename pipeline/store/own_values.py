"""Many rows changed by one statement, each to values of its own: the values travel as one JSON document.

Measured on MariaDB: a third of the time of a CASE with a thousand branches, and the text stays the same, so nothing
is compiled again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Boolean, Column, DateTime, Double, Float, Integer, Table, TextClause, bindparam, text
from sqlalchemy.dialects import mysql, sqlite

from pipeline.store.database import Transaction

_FROM_DOCUMENT = ("FROM json_each(:own_rows)) AS own_values",)


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of a table are changed, and how.

    Each of `rows` begins with the values of the columns `key`, those of the columns `own` follow. `alike` is set to
    the same in all rows; `more` adds one to these columns; only rows that agree with `guard` are changed.
    """

    key: tuple[str, ...]
    own: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    alike: Mapping[str, Any]
    more: tuple[str, ...] = ()
    guard: Mapping[str, Any] | None = None


def change(tx: Transaction, table: Table, wanted: Rows) -> int:
    """Change the rows; how many there were. Values are what JSON knows, or datetimes; keys must not repeat."""
    if not wanted.rows:
        return 0
    guard = wanted.guard or {}
    shape = _Shape(wanted.key, wanted.own, tuple(wanted.alike), wanted.more, tuple(guard))
    statement = _statement(tx.connection.dialect.name == "sqlite", table, shape)
    values = {f"alike_{name}": value for name, value in wanted.alike.items()}
    values |= {f"guard_{name}": value for name, value in guard.items()}
    return tx.connection.execute(statement, {**values, "own_rows": _document(wanted.rows)}).rowcount


def remove(tx: Transaction, table: Table, key: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> int:
    """Delete the rows of these keys; how many there were.

    Measured, MariaDB reads all of the table for tuples, `(a, b, c) IN (...)`.
    """
    if not rows:
        return 0
    statement = _deletion(tx.connection.dialect.name == "sqlite", table, key)
    return tx.connection.execute(statement, {"own_rows": _document(rows)}).rowcount


def add(
    tx: Transaction, table: Table, own: tuple[str, ...], rows: Sequence[Sequence[Any]], alike: Mapping[str, Any]
) -> None:
    """Insert rows: columns `own` from `rows`, those of `alike` the same in all."""
    if rows:
        statement = _insertion(tx.connection.dialect.name == "sqlite", table, own, tuple(alike))
        values = {f"alike_{name}": value for name, value in alike.items()}
        tx.connection.execute(statement, {**values, "own_rows": _document(rows)})


def _document(rows: Sequence[Sequence[Any]]) -> str:
    return json.dumps(rows, default=_encoded, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the text of the statement depends on."""

    key: tuple[str, ...]
    own: tuple[str, ...]
    alike: tuple[str, ...]
    more: tuple[str, ...]
    guard: tuple[str, ...]


@lru_cache(maxsize=256)
def _statement(is_sqlite: bool, table: Table, shape: _Shape) -> TextClause:
    """Words joined, since the names in it are columns of ours; all values are parameters."""
    names = (*shape.key, *shape.own)
    quoted = _quoted(is_sqlite, table)
    changed = "" if is_sqlite else f"{quoted}."
    changes = [f"{changed}{name} = own_values.own_{name}" for name in shape.own]
    changes += [f"{changed}{name} = :alike_{name}" for name in shape.alike]
    changes += [f"{changed}{name} = {quoted}.{name} + 1" for name in shape.more]
    joined = " AND ".join(f"{quoted}.{name} = own_values.own_{name}" for name in shape.key)
    guarded = " AND ".join(["1 = 1", *(f"{quoted}.{name} = :guard_{name}" for name in shape.guard)])
    setting = ("SET", ", ".join(changes))
    if is_sqlite:
        words = ["UPDATE", quoted, *setting, "FROM", _source(is_sqlite, table, names), "WHERE", joined, "AND", guarded]
    else:
        # In this order: the optimiser does not know how few rows the document has, and might read all of the table.
        source = _source(is_sqlite, table, names)
        words = ["UPDATE", source, "STRAIGHT_JOIN", quoted, "ON", joined, *setting, "WHERE", guarded]
    typed = [bindparam(f"alike_{name}", type_=table.c[name].type) for name in shape.alike]
    typed += [bindparam(f"guard_{name}", type_=table.c[name].type) for name in shape.guard]
    return text(" ".join(words)).bindparams(*typed)


@lru_cache(maxsize=256)
def _deletion(is_sqlite: bool, table: Table, key: tuple[str, ...]) -> TextClause:
    quoted, source = _quoted(is_sqlite, table), _source(is_sqlite, table, key)
    own = ", ".join(f"own_{name}" for name in key)
    if is_sqlite:
        words = ["DELETE FROM", quoted, "WHERE", f"({', '.join(key)})", "IN (SELECT", own, "FROM", source, ")"]
    else:
        joined = " AND ".join(f"{quoted}.{name} = own_values.own_{name}" for name in key)
        words = ["DELETE", quoted, "FROM", source, "STRAIGHT_JOIN", quoted, "ON", joined]
    return text(" ".join(words))


@lru_cache(maxsize=256)
def _insertion(is_sqlite: bool, table: Table, own: tuple[str, ...], alike: tuple[str, ...]) -> TextClause:
    columns = ", ".join((*own, *alike))
    values = ", ".join((*(f"own_{name}" for name in own), *(f":alike_{name}" for name in alike)))
    source = _source(is_sqlite, table, own)
    words = ["INSERT INTO", _quoted(is_sqlite, table), f"({columns})", "SELECT", values, "FROM", source]
    return text(" ".join(words)).bindparams(*(bindparam(f"alike_{name}", type_=table.c[name].type) for name in alike))


def _source(is_sqlite: bool, table: Table, names: tuple[str, ...]) -> str:
    """The document as a table `own_values`, a column for each name."""
    if is_sqlite:
        columns = ", ".join(f"json_extract(value, '$[{place}]') AS own_{name}" for place, name in enumerate(names))
        return " ".join(["(SELECT", columns, *_FROM_DOCUMENT])
    typed = ", ".join(f"own_{name} {_kind(table.c[name])} PATH '$[{place}]'" for place, name in enumerate(names))
    return f"JSON_TABLE(:own_rows, '$[*]' COLUMNS ({typed})) AS own_values"


def _quoted(is_sqlite: bool, table: Table) -> str:
    """`usage` is a word of SQL."""
    return str((sqlite if is_sqlite else mysql).dialect().identifier_preparer.quote(table.name))


def _kind(column: Column[Any]) -> str:
    kind = column.type
    if isinstance(kind, Boolean):
        return "SMALLINT"
    if isinstance(kind, Integer):
        return "BIGINT"
    if isinstance(kind, Float | Double):
        return "DOUBLE"
    if isinstance(getattr(kind, "impl", kind), DateTime):
        return "DATETIME(6)"
    return f"VARCHAR({getattr(kind, 'length', None) or 1000})"


def _encoded(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    raise TypeError(f"{value!r} can't be the value of one row; give a number, a text, a moment or None")
