"""Attempts that have ended are booked: what limits and shares counted for them is given back, each once.

`jobs.apply` appends a row per attempt that ends, in the transaction that ends it; whoever books it deletes it. Until
then it counts as if it still ran, so a limit may be left unused for a moment, but is never exceeded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, select

from pipeline.store import limits, usage
from pipeline.store.autoclusters import Owner, owners_of
from pipeline.store.database import Database, Transaction, in_chunks
from pipeline.store.tables import releases
from pipeline.store.usage import Booking
from schemas.shares import used_by

MOST = 5_000
"""Rows that one transaction books at the most."""


@dataclass(frozen=True, slots=True)
class Booked:
    """How many rows were booked, and the id of the last one."""

    count: int = 0
    last_id: int = 0


def book(tx: Transaction, half_life: float, *, after: int = 0, most: int = MOST) -> Booked:
    """Book up to `most` rows that nobody else is booking, from id `after` on. `half_life` of shares: seconds.

    Rows are committed out of order of their ids: who remembers `after` must forget it now and then.
    """
    query = select(releases).where(releases.c.id > after).order_by(releases.c.id).limit(most)
    rows = tx.lock(query, skip_locked=True)
    if not rows:
        return Booked()
    owners = owners_of(tx, {row.autocluster_id for row in rows if row.autocluster_id is not None})
    _give_back(tx, rows, owners)
    _settle(tx, rows, owners, half_life)
    for part in in_chunks([row.id for row in rows]):
        tx.run(delete(releases).where(releases.c.id.in_(part)))
    return Booked(len(rows), rows[-1].id)


def book_all(database: Database, half_life: float) -> int:
    """Book all that there are, in transactions of a bounded size; how many there were."""
    total = 0
    while True:
        booked = database.transact(lambda tx: book(tx, half_life))
        total += booked.count
        if booked.count < MOST:
            return total


def _give_back(tx: Transaction, rows: Sequence[Row[Any]], owners: Mapping[int, Owner]) -> None:
    kinds = Counter((row.autocluster_id, row.site_id, row.matched_at is not None) for row in rows)
    known = limits.of(tx, {owner.vo_id for owner in owners.values()}, {row.site_id or 0 for row in rows})
    moves: Counter[int] = Counter()
    for (autocluster_id, site_id, is_granted), many in kinds.items():
        owner = owners.get(autocluster_id or 0)
        for limit in known:
            if limits.counts(limit, owner, site_id, is_granted=is_granted):
                moves[limit.id] -= many
    limits.move(tx, limits.lock(tx, [limit for limit in known if moves[limit.id]]), moves)


def _settle(tx: Transaction, rows: Sequence[Row[Any]], owners: Mapping[int, Owner], half_life: float) -> None:
    bookings: defaultdict[usage.Key, list[Booking]] = defaultdict(list)
    for row in rows:
        owner = owners.get(row.autocluster_id)
        if owner is None or row.matched_at is None or row.charge is None:
            continue
        used = used_by(row.cores or 0, row.matched_at if row.is_started else None, row.ended_at)
        bookings[owner.vo_id, owner.group_id, owner.owner_id].append(
            Booking(weighed=used - row.charge, at=row.matched_at, settled=row.charge, used=used)
        )
    usage.book(tx, bookings, half_life)
