"""Totals and measures of the whole system, kept as rows: the same for every API process, and after all have restarted.

Labels are a JSON list of their values. Sites, site queues and VOs are named by id: a name may change, and what was
counted under it would be left behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select

from pipeline.store.database import Transaction
from pipeline.store.tables import metric_values, site_queues, sites, vos

Labels = tuple[str | int | None, ...]
Key = tuple[str, Labels]
"""A metric's name and the values of its labels; None where there is nothing to name."""


@dataclass(frozen=True, slots=True)
class Names:
    """What ids stand for, by the name of the label that they are values of."""

    of: Mapping[str, Mapping[int, str]]

    def said(self, label: str, value: str | int | None) -> str:
        """The value as it is told outside; an id of what is gone remains a number."""
        if isinstance(value, int):
            return self.of.get(label, {}).get(value, str(value))
        return value or ""


def add(tx: Transaction, deltas: Mapping[Key, float]) -> None:
    """Add to totals; adding 0 makes one known, so that its first rise is seen.

    Whoever does so holds the lock of a mark (`pipeline.store.marks`), so that nothing is lost.
    """
    wanted = sorted({name for name, _ in deltas})
    query = select(metric_values).where(metric_values.c.name.in_(wanted))
    known = {(row.name, row.labels): row.value for row in tx.rows(query)}
    rows = [
        {"name": name, "labels": _text(labels), "value": known.get((name, _text(labels)), 0.0) + delta}
        for (name, labels), delta in deltas.items()
        if delta or (name, _text(labels)) not in known
    ]
    tx.put(metric_values, rows, ("value",))


def replace(tx: Transaction, names: Iterable[str], values: Mapping[Key, float]) -> None:
    """Make these the only values of the metrics of these names."""
    tx.run(delete(metric_values).where(metric_values.c.name.in_(sorted(set(names)))))
    rows = [{"name": name, "labels": _text(labels), "value": value} for (name, labels), value in values.items()]
    tx.add_all(metric_values, rows)


def everything(tx: Transaction) -> dict[Key, float]:
    """All that is kept."""
    return {(row.name, tuple(json.loads(row.labels))): row.value for row in tx.rows(select(metric_values))}


def names(tx: Transaction) -> Names:
    """What the ids in labels stand for."""
    kinds = {"site": sites, "site_queue": site_queues, "vo": vos}
    return Names({label: {row.id: row.name for row in tx.rows(select(t.c.id, t.c.name))} for label, t in kinds.items()})


def _text(labels: Labels) -> str:
    return json.dumps(labels, separators=(",", ":"))
