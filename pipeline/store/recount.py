"""Limits are counted anew: what should never be off is looked at all the same, and mended where it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select, union_all

from pipeline.store import limits, own_values
from pipeline.store.autoclusters import owners_of
from pipeline.store.database import Transaction
from pipeline.store.match_rows import LimitRow
from pipeline.store.tables import jobs, pilots, releases, vos
from pipeline.store.tables import limits as limits_table
from schemas.states import JOB_OCCUPYING, PILOT_LIVE


@dataclass(frozen=True, slots=True)
class Drift:
    """A limit whose count was not what it ought to be."""

    name: str
    """The rule's name, or `site`."""
    subject_id: int
    counted: int
    true: int


def recount(tx: Transaction, rule_ids: Iterable[int] | None = None) -> list[Drift]:
    """Put all limits right in one pass, or those of some rules, their rows locked; those that were off.

    What a limit counts are attempts that occupy a pilot, and those that have ended but are not booked yet: one
    statement reads both, since an attempt goes from the one to the other in a moment.
    """
    query = select(limits_table).order_by(limits_table.c.id)
    if rule_ids is not None:
        query = query.where(limits_table.c.kind == limits.RULE, limits_table.c.subject_id.in_(sorted(rule_ids)))
    locked = {row.id: row for row in tx.lock(query)}
    if not locked:
        return []
    every_vo = [row.id for row in tx.rows(select(vos.c.id))]
    of_sites = [row.subject_id for row in locked.values() if row.kind == limits.SITE]
    known = [limit for limit in limits.of(tx, every_vo, of_sites) if limit.id in locked]
    true = _counted(tx, known)
    off = [limit for limit in known if true[limit.id] != locked[limit.id].running]
    rows = [(limit.id, true[limit.id]) for limit in off]
    own_values.change(tx, limits_table, own_values.Rows(("id",), ("running",), rows, {}))
    return [Drift(limit.name, locked[limit.id].subject_id, locked[limit.id].running, true[limit.id]) for limit in off]


def _counted(tx: Transaction, known: list[LimitRow]) -> Counter[int]:
    rows = _attempts(tx)
    owners = owners_of(tx, {row.autocluster_id for row in rows if row.autocluster_id is not None})
    true: Counter[int] = Counter()
    for row in rows:
        for limit in known:
            owner = owners.get(row.autocluster_id)
            if limits.counts(limit, owner, row.site_id, is_granted=bool(row.is_granted)):
                true[limit.id] += row.many
    return true


def _attempts(tx: Transaction) -> list[Row[Any]]:
    """Attempts that count, by autocluster, site, and whether they were granted anything."""
    occupying = (
        select(jobs.c.autocluster_id, pilots.c.site_id, jobs.c.matched_at.is_not(None).label("is_granted"), _MANY)
        .join(pilots, pilots.c.id == jobs.c.pilot_id)
        # a pilot that has ended holds no job: whoever ends it ends its attempts
        .where(pilots.c.state.in_(PILOT_LIVE), jobs.c.state.in_(JOB_OCCUPYING))
        .group_by(jobs.c.autocluster_id, pilots.c.site_id, jobs.c.matched_at.is_not(None))
    )
    ended = select(
        releases.c.autocluster_id, releases.c.site_id, releases.c.matched_at.is_not(None).label("is_granted"), _MANY
    ).group_by(releases.c.autocluster_id, releases.c.site_id, releases.c.matched_at.is_not(None))
    return list(tx.connection.execute(union_all(occupying, ended)).all())


_MANY = func.count().label("many")
