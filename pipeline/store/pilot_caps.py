"""Limits of pilots, nested: everywhere, by VO, by site, by meta-site. Those of a queue are in its entry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from sqlalchemy import delete, insert, select, update

from pipeline.store.database import Transaction
from pipeline.store.provisioning_rows import Cap
from pipeline.store.tables import pilot_caps, site_queues, sites, vos
from schemas.sites import MetaSiteEntry, PilotCaps, SitesFile

ALL, VO, SITE, META = "all", "vo", "site", "meta"
_NONE = PilotCaps()
Key = tuple[str, str]
"""Kind and name; everywhere has the name ''."""


def caps(tx: Transaction) -> Iterator[Cap]:
    """All that are declared, with the ids of what they cover."""
    vo_ids = {row.name: row.id for row in tx.rows(select(vos.c.name, vos.c.id))}
    of_site: defaultdict[str, set[int]] = defaultdict(set)
    by_label: dict[str, int] = {}
    queues = select(site_queues.c.id, site_queues.c.name, sites.c.name.label("site"))
    for row in tx.rows(queues.join(sites, sites.c.id == site_queues.c.site_id)):
        of_site[row.site].add(row.id)
        by_label[f"{row.site}/{row.name}"] = row.id
    for row in tx.rows(select(pilot_caps).order_by(pilot_caps.c.id)):
        label = label_of(row.kind, row.name)
        if row.kind == META:
            meta = MetaSiteEntry.model_validate_json(row.body)
            members = frozenset(by_label[queue] for queue in meta.queues if queue in by_label)
            yield Cap(label, meta, queues=members)
            continue
        limits = PilotCaps.model_validate_json(row.body)
        if row.kind == SITE:
            yield Cap(label, limits, queues=frozenset(of_site[row.name]))
        elif row.kind == VO and row.name in vo_ids:
            yield Cap(label, limits, vo_id=vo_ids[row.name])
        elif row.kind == ALL:
            yield Cap(label, limits)


def members(tx: Transaction) -> Mapping[str, frozenset[int]]:
    """The site queues of each meta-site, by its name."""
    return {cap.limits.name: cap.queues or frozenset() for cap in caps(tx) if isinstance(cap.limits, MetaSiteEntry)}


def wanted_caps(file: SitesFile) -> Mapping[Key, str]:
    """What the rows shall be, by kind and name: only limits that limit something, and every meta-site."""
    found: dict[Key, PilotCaps] = {(ALL, ""): file.pilots}
    found |= {(VO, name): limits for name, limits in file.vo_pilots.items()}
    found |= {(SITE, site.name): site.pilots for site in file.sites}
    found |= {(META, meta.name): meta for meta in file.meta_sites}
    return {key: limits.model_dump_json(exclude_defaults=True) for key, limits in found.items() if limits != _NONE}


def known_caps(tx: Transaction, *, is_dry_run: bool) -> Mapping[Key, str]:
    """The rows as they are, locked unless nothing will be written."""
    query = select(pilot_caps).order_by(pilot_caps.c.id)
    rows = tx.rows(query) if is_dry_run else tx.lock(query)
    return {(row.kind, row.name): row.body for row in rows}


def put_cap(tx: Transaction, key: Key, body: str | None) -> None:
    """Make one row what it shall be; None: there is none."""
    mine = (pilot_caps.c.kind == key[0], pilot_caps.c.name == key[1])
    if body is None:
        tx.run(delete(pilot_caps).where(*mine))
    elif not tx.run(update(pilot_caps).where(*mine).values(body=body)):
        tx.run(insert(pilot_caps).values(kind=key[0], name=key[1], body=body))


def label_of(kind: str, name: str) -> str:
    """What people call it."""
    return {ALL: "everywhere", VO: f"VO {name}", SITE: f"site {name}", META: f"meta-site {name}"}[kind]
