"""What a preview of matching reads besides what matching reads: nothing is locked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import or_, select

from pipeline.errors import NotFound
from pipeline.store import jobs, waiting
from pipeline.store.bans import in_force
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import JobRow
from pipeline.store.match_rows import Level
from pipeline.store.tables import autoclusters, bans, groups, identities, sites, steps, waiting_jobs
from pipeline.store.tables import jobs as jobs_table
from schemas.states import JobState


@dataclass(frozen=True, slots=True)
class SiteNow:
    """A site for one VO. `banned` says by whom and why all of it is banned, `only_job_type` that it is in test mode."""

    id: int
    banned: str | None
    only_job_type: str | None


@dataclass(frozen=True, slots=True)
class Names:
    """What ids are called."""

    groups: Mapping[int, str]
    owners: Mapping[int, str]
    steps: Mapping[int, str]


def site_now(tx: Transaction, vo_id: int, name: str) -> SiteNow:
    """The declared site of this name. Raises NotFound."""
    site_id = tx.scalar(select(sites.c.id).where(sites.c.name == name, sites.c.declared))
    if site_id is None:
        raise NotFound(f"there is no site {name!r}; `penstock sites list` shows what there is", field="resource.site")
    concerning = (bans.c.site_id == site_id, bans.c.site_queue_id.is_(None), in_force(tx))
    of_vo = or_(bans.c.vo_id.is_(None), bans.c.vo_id == vo_id)
    rows = tx.rows(select(bans).where(*concerning, of_vo).order_by(bans.c.id.desc()))
    full = [f"by {row.banned_by}: {row.why}" for row in rows if row.only_job_type is None]
    tested = [row.only_job_type for row in rows if row.only_job_type is not None]
    return SiteNow(int(site_id), full[0] if full else None, tested[0] if tested else None)


def heads(tx: Transaction, vo_id: int) -> list[Level]:
    """The highest level of each autocluster of the VO that has waiting jobs."""
    ids = [row.id for row in tx.rows(select(autoclusters.c.id).where(autoclusters.c.vo_id == vo_id))]
    return waiting.heads(tx, {}, ids)


def jobs_of(tx: Transaction, level: Level, *, after: int, most: int) -> list[JobRow]:
    """Up to `most` jobs of a level with an id above `after`, the oldest first."""
    query = (
        select(waiting_jobs.c.job_id)
        .where(
            waiting_jobs.c.autocluster_id == level.autocluster_id,
            waiting_jobs.c.descent == -level.priority,
            waiting_jobs.c.job_id > after,
        )
        .order_by(waiting_jobs.c.job_id)
        .limit(most)
    )
    ids = [row.job_id for row in tx.rows(query)]
    found = tx.rows(jobs.columns().where(jobs_table.c.id.in_(ids)).order_by(jobs_table.c.id))
    return [JobRow(**{**row._asdict(), "state": JobState(row.state)}) for row in found]


def names(tx: Transaction, levels: Iterable[Level], found: Iterable[JobRow]) -> Names:
    """The names of all that these levels and jobs speak of."""
    of_levels = list(levels)
    group_ids, owner_ids = {level.group_id for level in of_levels}, {level.owner_id for level in of_levels}
    step_ids = {job.step_id for job in found}
    return Names(
        {row.id: row.name for row in tx.rows(select(groups.c.id, groups.c.name).where(groups.c.id.in_(group_ids)))},
        {
            row.id: row.subject
            for some in in_chunks(sorted(owner_ids))
            for row in tx.rows(select(identities.c.id, identities.c.subject).where(identities.c.id.in_(some)))
        },
        {row.id: row.name for row in tx.rows(select(steps.c.id, steps.c.name).where(steps.c.id.in_(step_ids)))},
    )
