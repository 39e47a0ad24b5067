"""Limits: how many jobs may run at a time, and start in a time, at a site or by the rules of VOs' policies.

Room is taken by matching alone, with the rows locked, after jobs and before usage; in order of ids. It is given back
when the end of an attempt is booked (`releases`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Select, and_, or_, select

from pipeline.store import own_values
from pipeline.store.autoclusters import Owner
from pipeline.store.database import Transaction
from pipeline.store.match_rows import LimitRow, Selector, StartRate
from pipeline.store.tables import groups, identities, limit_rules, limits, sites, start_rates

SITE = "site"
RULE = "rule"
_NOBODY = 0
"""Stands for a name that nothing has yet: no id is 0."""


def counts(limit: LimitRow, owner: Owner | None, site_id: int | None, *, is_granted: bool) -> bool:
    """Whether a limit counts an attempt at this site.

    Attempts that are not granted anything are of release 0.2.0: it moves the limits of sites, and knows no others.
    """
    wanted = limit.selector
    if wanted.site_id is not None and wanted.site_id != site_id:
        return False
    if wanted.vo_id is None:
        return True
    return (
        is_granted
        and owner is not None
        and wanted.vo_id == owner.vo_id
        and wanted.group_id in {None, owner.group_id}
        and wanted.owner_id in {None, owner.owner_id}
        and wanted.job_type in {None, owner.job_type}
        and (wanted.label is None or wanted.label in owner.labels)
    )


def of(tx: Transaction, vo_ids: Iterable[int], site_ids: Iterable[int] | None) -> list[LimitRow]:
    """The limits of these sites (None: of all), and those that the policies of these VOs declare; unlocked."""
    rules = _rules(tx, vo_ids)
    of_sites = limits.c.kind == SITE
    if site_ids is not None:
        of_sites = and_(of_sites, limits.c.subject_id.in_(sorted(set(site_ids))))
    wanted = [of_sites]
    if rules:
        wanted.append(and_(limits.c.kind == RULE, limits.c.subject_id.in_(sorted(rules))))
    found = []
    for row in tx.rows(select(limits).where(or_(*wanted), limits.c.maximum.is_not(None))):
        if row.kind == SITE:
            name, selector = SITE, Selector(site_id=row.subject_id)
        else:
            name, selector = rules[row.subject_id]
        found.append(LimitRow(row.id, name, selector, row.maximum, row.running))
    return found


def rates(tx: Transaction, site_ids: Iterable[int] | None) -> list[StartRate]:
    """The start rates of these sites (None: of all); unlocked."""
    return [_rate(row) for row in tx.rows(_rates(site_ids))]


def lock(tx: Transaction, known: Iterable[LimitRow]) -> list[LimitRow]:
    """The same limits as they are now, and stay until the transaction ends; without those that are gone."""
    by_id = {limit.id: limit for limit in known}
    if not by_id:
        return []
    query = select(limits.c.id, limits.c.maximum, limits.c.running).where(limits.c.id.in_(sorted(by_id)))
    return [
        replace(by_id[row.id], maximum=row.maximum, running=row.running)
        for row in tx.lock(query.order_by(limits.c.id))
        if row.maximum is not None
    ]


def lock_rates(tx: Transaction, site_ids: Iterable[int]) -> list[StartRate]:
    """The start rates of these sites, locked."""
    wanted = sorted(set(site_ids))
    return [_rate(row) for row in tx.lock(_rates(wanted).order_by(start_rates.c.site_id))] if wanted else []


def move(tx: Transaction, locked: Iterable[LimitRow], moves: Mapping[int, int]) -> None:
    """Count so many more jobs (fewer: below 0) against locked limits, by id. A count never goes below 0."""
    rows = [(limit.id, max(limit.running + moves[limit.id], 0)) for limit in locked if moves.get(limit.id, 0)]
    own_values.change(tx, limits, own_values.Rows(("id",), ("running",), rows, {}))


def spend(tx: Transaction, locked: Iterable[StartRate], starts: Mapping[int, int]) -> None:
    """Use up so many tokens of locked start rates, by site id. Their time never goes back: a transaction that began
    earlier may come later."""
    rows = [
        (rate.site_id, rate.filled(tx.now) - starts[rate.site_id], max(rate.at, tx.now))
        for rate in locked
        if starts.get(rate.site_id, 0)
    ]
    own_values.change(tx, start_rates, own_values.Rows(("site_id",), ("tokens", "at"), rows, {}))


def _rates(site_ids: Iterable[int] | None) -> Select[Any]:
    query = select(start_rates)
    return query if site_ids is None else query.where(start_rates.c.site_id.in_(sorted(set(site_ids))))


def _rate(row: Any) -> StartRate:
    return StartRate(row.site_id, row.jobs, row.period, row.tokens, row.at)


def _rules(tx: Transaction, vo_ids: Iterable[int]) -> dict[int, tuple[str, Selector]]:
    """(name, selector) of each declared rule of these VOs, by its id."""
    query = select(limit_rules).where(limit_rules.c.vo_id.in_(sorted(set(vo_ids))), limit_rules.c.declared)
    rows = tx.rows(query)
    bodies = {row.id: json.loads(row.rule) for row in rows}
    names = _Names.of(tx, [(row.vo_id, bodies[row.id]) for row in rows])
    return {row.id: (row.name, names.selector(row.vo_id, bodies[row.id])) for row in rows}


@dataclass(frozen=True, slots=True)
class _Names:
    """The ids of what rules name."""

    sites: Mapping[str, int]
    groups: Mapping[tuple[int, str], int]
    owners: Mapping[tuple[int, str], int]

    @classmethod
    def of(cls, tx: Transaction, rules: Sequence[tuple[int, Mapping[str, Any]]]) -> _Names:
        """Read those that the rules name, and no others."""
        named = {
            word: sorted({rule[word] for _, rule in rules if rule.get(word) is not None})
            for word in ("site", "group", "owner")
        }
        of_site = select(sites.c.id, sites.c.name).where(sites.c.name.in_(named["site"]))
        of_group = select(groups.c.id, groups.c.vo_id, groups.c.name).where(groups.c.name.in_(named["group"]))
        of_owner = select(identities.c.id, identities.c.vo_id, identities.c.subject.label("name"))
        of_owner = of_owner.where(
            identities.c.vo_id.in_({vo_id for vo_id, _ in rules}), identities.c.subject.in_(named["owner"])
        )
        return cls(
            {row.name: row.id for row in tx.rows(of_site)} if named["site"] else {},
            {(row.vo_id, row.name): row.id for row in tx.rows(of_group)} if named["group"] else {},
            {(row.vo_id, row.name): row.id for row in tx.rows(of_owner.order_by(identities.c.id.desc()))}
            if named["owner"]
            else {},
        )

    def selector(self, vo_id: int, rule: Mapping[str, Any]) -> Selector:
        """The rule's words with ids for names; a name that nothing has selects nothing."""
        site, group, owner = rule.get("site"), rule.get("group"), rule.get("owner")
        return Selector(
            vo_id=vo_id,
            site_id=None if site is None else self.sites.get(site, _NOBODY),
            group_id=None if group is None else self.groups.get((vo_id, group), _NOBODY),
            owner_id=None if owner is None else self.owners.get((vo_id, owner), _NOBODY),
            job_type=rule.get("job_type"),
            label=rule.get("label"),
        )
