"""Limits as people see them: by the names of what they are about, with what runs and what is free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Row, select

from pipeline.store.access import vo_name
from pipeline.store.database import Transaction
from pipeline.store.match_rows import StartRate
from pipeline.store.tables import limit_rules, limits, site_queues, sites, start_rates
from schemas.policy import LimitEntry
from schemas.share_views import LimitView
from schemas.sites import SiteQueueEntry


def list_limits(tx: Transaction, vo_id: int) -> list[LimitView]:
    """The limits and start rates of the sites that a VO may use, and the VO's own rules."""
    at = _sites(tx, vo_id)
    return [*_of_sites(tx, at), *_rules(tx, vo_id), *_rates(tx, at)]


def _sites(tx: Transaction, vo_id: int) -> Mapping[int, str]:
    """The names of the declared sites that have a queue for the VO, by id."""
    vo = vo_name(tx, vo_id)
    query = (
        select(sites.c.id, sites.c.name, site_queues.c.entry)
        .join(site_queues, site_queues.c.site_id == sites.c.id)
        .where(sites.c.declared, site_queues.c.declared)
        .order_by(sites.c.name)
    )
    return {row.id: row.name for row in tx.rows(query) if vo in SiteQueueEntry.model_validate_json(row.entry).vos}


def _of_sites(tx: Transaction, at: Mapping[int, str]) -> Iterator[LimitView]:
    rows = tx.rows(select(limits).where(limits.c.kind == "site", limits.c.maximum.is_not(None)))
    for row in sorted((row for row in rows if row.subject_id in at), key=lambda row: at[row.subject_id]):
        name = at[row.subject_id]
        yield LimitView(name=name, kind="site", site=name, **_numbers(row))


def _rules(tx: Transaction, vo_id: int) -> Iterator[LimitView]:
    query = (
        select(limits, limit_rules.c.rule)
        .join(limit_rules, (limits.c.kind == "rule") & (limits.c.subject_id == limit_rules.c.id))
        .where(limit_rules.c.vo_id == vo_id, limit_rules.c.declared)
        .order_by(limit_rules.c.name)
    )
    for row in tx.rows(query):
        entry = LimitEntry.model_validate_json(row.rule)
        yield LimitView(
            name=entry.name, kind="rule", **entry.model_dump(exclude={"name", "max_running"}), **_numbers(row)
        )


def _rates(tx: Transaction, at: Mapping[int, str]) -> Iterator[LimitView]:
    for row in sorted(
        (row for row in tx.rows(select(start_rates)) if row.site_id in at), key=lambda row: at[row.site_id]
    ):
        free = StartRate(row.site_id, row.jobs, row.period, row.tokens, row.at).left(tx.now)
        name = at[row.site_id]
        yield LimitView(
            name=name,
            kind="start_rate",
            site=name,
            maximum=row.jobs,
            running=row.jobs - free,
            free=free,
            seconds=row.period,
        )


def _numbers(row: Row[Any]) -> dict[str, int]:
    return {"maximum": row.maximum, "running": row.running, "free": max(row.maximum - row.running, 0)}
