"""Sites, site queues and storages as the sites file declares them. Ids are stable, names are labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sqlalchemy import Row, Table, case, delete, func, insert, select, update

from pipeline.store import pilot_caps
from pipeline.store.bans import Scope, Terms, allow, ban, end_bans
from pipeline.store.database import Transaction
from pipeline.store.held import wake_held
from pipeline.store.policies import stop_matching
from pipeline.store.site_queries import list_sites
from pipeline.store.tables import (
    jobs,
    limits,
    pilots,
    releases,
    site_queues,
    site_storages,
    sites,
    start_rates,
    storages,
    vos,
)
from schemas.site_views import SitesDiff
from schemas.sites import SiteEntry, SiteQueueEntry, SitesFile, StorageEntry
from schemas.states import JOB_OCCUPYING, PILOT_FINAL

__all__ = ["Scope", "Terms", "allow", "apply", "ban", "end_bans", "list_sites", "wake_held"]


def apply(tx: Transaction, wanted: SitesFile, *, data_dir: Path, dry_run: bool = False) -> SitesDiff:
    """Make the rows what the file says; what it leaves out is kept, undeclared. Bans are not touched.

    `${DATA_DIR}` in the URLs of storages becomes `data_dir`. A dry run only tells the difference.
    """
    work = _Work(tx, dry_run=dry_run)
    if not dry_run and _is_first_limit(tx, wanted.sites):
        stop_matching(tx, None)
    storage_ids = _apply_storages(work, wanted.storages, str(data_dir))
    known = {row.name: row for row in tx.lock(select(sites).order_by(sites.c.id))}
    _apply_shares(work, wanted.vo_shares)
    for site in wanted.sites:
        site_id = work.declare(f"site {site.name}", sites, known.get(site.name), {"name": site.name})
        changed = _apply_storages_of(work, site, site_id, storage_ids)
        changed |= _apply_limit(work, site, site_id)
        changed |= _apply_start_rate(work, site, site_id)
        if changed and site.name in known:
            work.note(f"site {site.name}", work.changed)
        _apply_queues(work, site, site_id)
    _apply_caps(work, wanted)
    left_out = {row.id: row for name, row in known.items() if name not in {site.name for site in wanted.sites}}
    for site_id, row in left_out.items():
        work.undeclare(f"site {row.name}", sites, row)
        for queue in _queues(tx, site_id).values():
            work.undeclare(f"queue {row.name}/{queue.name}", site_queues, queue)
    return work.diff(_warnings(tx, wanted))


@dataclass(slots=True)
class _Work:
    """Writes rows (unless it is a dry run) and keeps the difference."""

    tx: Transaction
    dry_run: bool
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def declare(self, label: str, table: Table, row: Row[Any] | None, values: Mapping[str, Any]) -> int | None:
        """The row has these values and is declared; its id, None for a new row in a dry run."""
        if row is None:
            self.added.append(label)
            return None if self.dry_run else self.tx.add(table, **values, declared=True)
        if not row.declared:
            self.added.append(label)
        elif any(getattr(row, name) != value for name, value in values.items()):
            self.changed.append(label)
        else:
            return int(row.id)
        self.run(update(table).where(table.c.id == row.id).values(**values, declared=True))
        return int(row.id)

    def undeclare(self, label: str, table: Table, row: Row[Any]) -> None:
        """The file names it no more; nothing new goes there, what refers to it stays."""
        if row.declared:
            self.removed.append(label)
            self.run(update(table).where(table.c.id == row.id).values(declared=False))

    def note(self, label: str, where: list[str]) -> None:
        """Name it in the difference, once."""
        if label not in {*self.added, *self.changed}:
            where.append(label)

    def run(self, statement: Any) -> None:
        """Execute, unless it is a dry run."""
        if not self.dry_run:
            self.tx.run(statement)

    def diff(self, warnings: Iterable[str]) -> SitesDiff:
        """What was found."""
        return SitesDiff(
            added=tuple(self.added),
            changed=tuple(self.changed),
            removed=tuple(self.removed),
            warnings=tuple(warnings),
            dry_run=self.dry_run,
        )


def _apply_storages(work: _Work, wanted: Iterable[StorageEntry], data_dir: str) -> Mapping[str, int | None]:
    known = {row.name: row for row in work.tx.lock(select(storages).order_by(storages.c.id))}
    ids: dict[str, int | None] = {}
    for entry in wanted:
        url = entry.url.replace("${DATA_DIR}", data_dir)
        values = {"name": entry.name, "kind": entry.kind, "url": url}
        ids[entry.name] = work.declare(f"storage {entry.name}", storages, known.get(entry.name), values)
    for name, row in known.items():
        if name not in ids:
            work.undeclare(f"storage {name}", storages, row)
    return ids


def _apply_storages_of(
    work: _Work, site: SiteEntry, site_id: int | None, storage_ids: Mapping[str, int | None]
) -> bool:
    wanted = [storage_ids[name] for name in site.storages]
    mine = site_storages.c.site_id == site_id
    query = select(site_storages.c.storage_id).where(mine).order_by(site_storages.c.position)
    if site_id is not None and [row.storage_id for row in work.tx.rows(query)] == wanted:
        return False
    work.run(delete(site_storages).where(mine))
    rows = [{"site_id": site_id, "storage_id": id_, "position": place} for place, id_ in enumerate(wanted)]
    work.run(insert(site_storages).values(rows))
    return True


def _apply_limit(work: _Work, site: SiteEntry, site_id: int | None) -> bool:
    """A site has a row of limits as long as it has a limit; the count starts with what runs there now."""
    mine = (limits.c.kind == "site", limits.c.subject_id == site_id)
    row = None if site_id is None else work.tx.first(select(limits.c.maximum).where(*mine))
    if (None if row is None else row.maximum) == site.max_running_jobs:
        return False
    if site.max_running_jobs is None:
        work.run(delete(limits).where(*mine))
    elif row is not None:
        work.run(update(limits).where(*mine).values(maximum=site.max_running_jobs))
    else:
        running = _counted(work.tx, site_id)
        values = {"kind": "site", "subject_id": site_id, "maximum": site.max_running_jobs, "running": running}
        work.run(insert(limits).values(values))
    return True


def _is_first_limit(tx: Transaction, wanted: Iterable[SiteEntry]) -> bool:
    """Whether the file gives a site a limit that has none: what runs there is to be counted then."""
    limited = select(sites.c.name).join(limits, limits.c.subject_id == sites.c.id).where(limits.c.kind == "site")
    known = {row.name for row in tx.rows(limited)}
    return any(site.max_running_jobs is not None and site.name not in known for site in wanted)


def _counted(tx: Transaction, site_id: int | None) -> int:
    """Attempts that occupy a pilot there, sought by pilots since there is no index of jobs by site, and those that
    have ended but are not booked yet: their booking takes them away again. One statement, as in `recount`."""
    occupying = (
        select(func.count())
        .select_from(jobs)
        .join(pilots, pilots.c.id == jobs.c.pilot_id)
        .where(pilots.c.site_id == site_id, pilots.c.state.not_in(PILOT_FINAL), jobs.c.state.in_(JOB_OCCUPYING))
    )
    ended = select(func.count()).select_from(releases).where(releases.c.site_id == site_id)
    return int(tx.scalar(select(occupying.scalar_subquery() + ended.scalar_subquery())))


def _apply_start_rate(work: _Work, site: SiteEntry, site_id: int | None) -> bool:
    """A new bucket is full; one whose rate changes keeps its tokens, as far as they fit."""
    mine = start_rates.c.site_id == site_id
    row = None if site_id is None else work.tx.first(select(start_rates).where(mine))
    wanted = site.max_starts
    if wanted is None:
        if row is not None:
            work.run(delete(start_rates).where(mine))
        return row is not None
    values = {"jobs": wanted.jobs, "period": wanted.seconds}
    if row is None:
        work.run(insert(start_rates).values(site_id=site_id, tokens=wanted.jobs, at=work.tx.now, **values))
    elif row.jobs != wanted.jobs or row.period != wanted.seconds:
        fitting = case((start_rates.c.tokens > wanted.jobs, wanted.jobs), else_=start_rates.c.tokens)
        work.run(update(start_rates).where(mine).values(tokens=fitting, **values))
    else:
        return False
    return True


def _apply_shares(work: _Work, shares: Mapping[str, float]) -> None:
    """What the file leaves out has a share of 1."""
    for row in work.tx.rows(select(vos).order_by(vos.c.id)):
        share = shares.get(row.name, 1.0)
        if row.share != share:
            work.note(f"share of VO {row.name}", work.changed)
            work.run(update(vos).where(vos.c.id == row.id).values(share=share))


def _apply_caps(work: _Work, wanted: SitesFile) -> None:
    """Limits of pilots as a whole: what the file does not say is not there."""
    known, wishes = pilot_caps.known_caps(work.tx, is_dry_run=work.dry_run), pilot_caps.wanted_caps(wanted)
    for key in sorted({*known, *wishes}):
        body = wishes.get(key)
        if body == known.get(key):
            continue
        label = f"pilots {pilot_caps.label_of(*key)}"
        if key[0] != pilot_caps.META:
            work.note(label, work.changed)
        else:
            where = work.removed if body is None else work.changed if key in known else work.added
            work.note(pilot_caps.label_of(*key), where)
        if not work.dry_run:
            pilot_caps.put_cap(work.tx, key, body)


def _apply_queues(work: _Work, site: SiteEntry, site_id: int | None) -> None:
    known = {} if site_id is None else _queues(work.tx, site_id)
    for entry in site.queues:
        row = known.get(entry.name)
        # what is as it would be anyway is left out, so that release 0.2.0 can read the rest
        body = entry.model_dump_json(exclude_defaults=True)
        if row is not None and SiteQueueEntry.model_validate_json(row.entry) == entry:
            body = row.entry
        values = {"site_id": site_id, "name": entry.name, "entry": body}
        work.declare(f"queue {site.name}/{entry.name}", site_queues, row, values)
    for name, row in known.items():
        if name not in {entry.name for entry in site.queues}:
            work.undeclare(f"queue {site.name}/{name}", site_queues, row)


def _queues(tx: Transaction, site_id: int) -> dict[str, Row[Any]]:
    query = select(site_queues).where(site_queues.c.site_id == site_id).order_by(site_queues.c.id)
    return {row.name: row for row in tx.rows(query)}


def _warnings(tx: Transaction, wanted: SitesFile) -> list[str]:
    """What may well be meant, but will not work as long as it stays so."""
    known_vos = {row.name for row in tx.rows(select(vos.c.name))}
    strangers = sorted(wanted.vo_shares.keys() - known_vos)
    unlimited = sorted(wanted.vo_pilots.keys() - known_vos)
    systems = {entry.name for entry in entry_points(group="penstock.batch_systems")}
    kinds = {entry.name for entry in entry_points(group="penstock.storages")}
    found = [f"vo_shares: there is no VO {name!r} yet" for name in strangers]
    found += [f"vo_pilots: there is no VO {name!r} yet" for name in unlimited]
    found += [
        f"storage {storage.name}: no storage of kind {storage.kind!r} is installed here"
        for storage in wanted.storages
        if storage.kind not in kinds
    ]
    for site in wanted.sites:
        for queue in site.queues:
            label = f"queue {site.name}/{queue.name}"
            found += [f"{label}: there is no VO {name!r} yet" for name in queue.vos if name not in known_vos]
            if queue.batch_system not in systems:
                found.append(f"{label}: no batch system {queue.batch_system!r} is installed here")
    return found
