"""Usage: core-seconds by owner, which shares are compared by, and the account of what each was promised and got.

`weight` is what counts as of `landmark` (see `schemas.shares`). Adding moves the landmark to now, so that numbers stay
small; what comes late (an attempt that was charged long ago has ended) counts as if it had been known in time. Rows
are locked last of all, in order of their key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select

from pipeline.store import own_values
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.match_rows import Account
from pipeline.store.tables import usage
from schemas.shares import moved, present, weight_of

Key = tuple[int, int, int]
"""VO, group, owner."""
_KEY = ("vo_id", "group_id", "owner_id")
_SUMS = ("weight", "charged", "settled", "used")


@dataclass(frozen=True, slots=True)
class Booking:
    """What one attempt adds to its owner's account, in core-seconds: `charged` at its match, the rest at its end.

    `weighed` is what shares shall see of it, as of the moment `at`.
    """

    weighed: int
    at: datetime
    charged: int = 0
    settled: int = 0
    used: int = 0


def accounts(tx: Transaction, vo_ids: Iterable[int], half_life: float) -> list[Account]:
    """What the owners in these VOs used; unlocked. `half_life` is seconds."""
    query = select(usage).where(usage.c.vo_id.in_(sorted(set(vo_ids))))
    return [
        Account(
            row.vo_id,
            row.group_id,
            row.owner_id,
            present(row.weight, row.landmark, tx.now, half_life),
            row.charged,
            row.settled,
            row.used,
        )
        for row in tx.rows(query)
    ]


def book(tx: Transaction, bookings: Mapping[Key, Sequence[Booking]], half_life: float) -> None:
    """Add these to the owners' accounts."""
    rows = []
    for key, found in _locked(tx, bookings).items():
        mine = bookings[key]
        weight = moved(found.weight, found.landmark, tx.now, half_life)
        weight += sum(weight_of(one.weighed, one.at, tx.now, half_life) for one in mine)
        sums = [getattr(found, name) + sum(getattr(one, name) for one in mine) for name in _SUMS[1:]]
        rows.append((*key, max(weight, 0.0), *sums))
    own_values.change(tx, usage, own_values.Rows(_KEY, _SUMS, rows, {"landmark": tx.now}))


def rebase(tx: Transaction, half_life: float) -> None:
    """Say all usage as of now, also of owners to whom nothing is added: what fades is finite for so long only."""
    found = tx.lock(select(usage).order_by(*(usage.c[name] for name in _KEY)))
    for part in in_chunks(found):
        rows = [(*_key(row), moved(row.weight, row.landmark, tx.now, half_life)) for row in part]
        own_values.change(tx, usage, own_values.Rows(_KEY, ("weight",), rows, {"landmark": tx.now}))


def _locked(tx: Transaction, wanted: Iterable[Key]) -> dict[Key, Row[Any]]:
    keys = sorted(set(wanted))
    found = _lock(tx, keys)
    missing = [key for key in keys if key not in found]
    if missing:
        rows = [{**dict(zip(_KEY, key, strict=True)), "weight": 0.0, "landmark": tx.now} for key in missing]
        tx.add_missing(usage, rows)
        found = _lock(tx, keys)
    return found


def _lock(tx: Transaction, keys: Sequence[Key]) -> dict[Key, Row[Any]]:
    """Narrowed by VO and owner, of which a few too many may be locked: databases do not use the key for tuples."""
    found: dict[Key, Row[Any]] = {}
    for vo_id in sorted({key[0] for key in keys}):
        mine = [key for key in keys if key[0] == vo_id]
        narrowed = (
            usage.c.vo_id == vo_id,
            usage.c.group_id.in_(sorted({key[1] for key in mine})),
            usage.c.owner_id.in_(sorted({key[2] for key in mine})),
        )
        query = select(usage).where(*narrowed).order_by(usage.c.group_id, usage.c.owner_id)
        found |= {_key(row): row for row in tx.lock(query)}
    return {key: found[key] for key in keys if key in found}


def _key(row: Row[Any]) -> Key:
    return row.vo_id, row.group_id, row.owner_id
