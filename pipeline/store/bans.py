"""Bans: who may not use what, said by whom and why, until when. Rows are never deleted, only lifted.

A ban with an `only_job_type` is test mode: it lets jobs of that type pass. The release before 0.3.0, which knows no
test mode, bans them too.

A VO's bans are its own: they are made, seen and lifted for one VO. A row without a VO is a ban on everybody; only
somebody who has the database makes one and lifts it, and all VOs obey and see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select, update

from pipeline.errors import BadInput, NotFound
from pipeline.store.database import Transaction
from pipeline.store.tables import bans, site_queues, sites, vos
from schemas.bounds import MAX_SECONDS
from schemas.site_views import BanView


@dataclass(frozen=True, slots=True)
class Scope:
    """What a ban of one VO is about: a site, or one of its queues."""

    vo_id: int
    site: str
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """Who bans, why, until when (None: until somebody lifts it), and the one type of jobs that may pass, if any."""

    by: str
    why: str
    until: datetime | None = None
    only_job_type: str | None = None


def ban(tx: Transaction, scope: Scope, terms: Terms) -> BanView:
    """Ban, or let jobs of one type alone pass. Raises NotFound for a name, BadInput for a past moment."""
    until = terms.until
    if until is not None and until <= tx.now:
        raise BadInput(f"{until:%Y-%m-%d %H:%M:%S} is past; a ban ends in the future", field="until")
    if until is not None and until > tx.after(MAX_SECONDS):
        raise BadInput(f"{until:%Y-%m-%d} is too far ahead; leave it out for a ban without an end", field="until")
    site_id, queue_id = _ids(tx, scope)
    ban_id = tx.add(
        bans,
        site_id=site_id,
        site_queue_id=queue_id,
        vo_id=scope.vo_id,
        banned_by=terms.by,
        why=terms.why,
        created_at=tx.now,
        until=until,
        only_job_type=terms.only_job_type,
    )
    (view,) = _views(tx, _query().where(bans.c.id == ban_id))
    return view


def allow(tx: Transaction, scope: Scope, *, by: str) -> list[BanView]:
    """Lift every ban of the VO in force within the scope, also narrower ones; those lifted. Raises NotFound.

    A drain's bans are left to whoever lifts the drain.
    """
    site_id, queue_id = _ids(tx, scope)
    within = [bans.c.site_id == site_id, bans.c.vo_id == scope.vo_id, bans.c.drain_id.is_(None), in_force(tx)]
    if queue_id is not None:
        within.append(bans.c.site_queue_id == queue_id)
    lifted = _views(tx, _query().where(*within))
    tx.run(update(bans).where(bans.c.id.in_([view.id for view in lifted])).values(lifted_at=tx.now, lifted_by=by))
    return lifted


def end_bans(tx: Transaction) -> int:
    """Mark bans whose time is over as lifted; how many."""
    over = (bans.c.lifted_at.is_(None), bans.c.until <= tx.now)
    return tx.run(update(bans).where(*over).values(lifted_at=tx.now, lifted_by="its end"))


def list_bans(tx: Transaction, vo_id: int) -> list[BanView]:
    """The bans in force that concern a VO: its own, and those on everybody."""
    return _views(tx, _query().where(in_force(tx), or_(bans.c.vo_id.is_(None), bans.c.vo_id == vo_id)))


def in_force(tx: Transaction) -> ColumnElement[bool]:
    """The condition on `bans` for those that count now."""
    return bans.c.lifted_at.is_(None) & or_(bans.c.until.is_(None), bans.c.until > tx.now)


def banned_queues(tx: Transaction) -> set[tuple[int, int | None]]:
    """(site queue, VO) of every full ban in force, a banned site as all of its queues; VO None: for all VOs."""
    rows = tx.rows(_by_queue(tx).where(bans.c.only_job_type.is_(None)))
    return {(row.id, row.vo_id) for row in rows}


def tested_queues(tx: Transaction) -> dict[tuple[int, int | None], str]:
    """The only job type that may run on each (site queue, VO) in test mode; VO None: for all VOs.

    A site in test mode counts as all of its queues, and of several rows for one queue and VO the latest. Queues
    that are banned as well are listed too: a caller that leaves `banned_queues` out first lets the ban win.
    """
    rows = tx.rows(_by_queue(tx).where(bans.c.only_job_type.is_not(None)).order_by(bans.c.id))
    return {(row.id, row.vo_id): row.only_job_type for row in rows}


def _by_queue(tx: Transaction) -> Select[Any]:
    return (
        select(site_queues.c.id, bans.c.vo_id, bans.c.only_job_type)
        .join(bans, bans.c.site_id == site_queues.c.site_id)
        .where(in_force(tx), or_(bans.c.site_queue_id.is_(None), bans.c.site_queue_id == site_queues.c.id))
    )


def _ids(tx: Transaction, scope: Scope) -> tuple[int, int | None]:
    site_id = tx.scalar(select(sites.c.id).where(sites.c.name == scope.site))
    if site_id is None:
        raise NotFound(f"there is no site {scope.site!r}; `penstock sites list` shows what there is", field="site")
    queue_id = None
    if scope.queue is not None:
        mine = (site_queues.c.site_id == site_id, site_queues.c.name == scope.queue)
        queue_id = tx.scalar(select(site_queues.c.id).where(*mine))
        if queue_id is None:
            raise NotFound(f"the site {scope.site} has no queue {scope.queue!r}", field="queue")
    return int(site_id), queue_id


def _query() -> Select[Any]:
    return (
        select(
            bans.c.id,
            sites.c.name.label("site"),
            site_queues.c.name.label("queue"),
            vos.c.name.label("vo"),
            bans.c.banned_by,
            bans.c.why,
            bans.c.created_at,
            bans.c.until,
            bans.c.only_job_type,
        )
        .join(sites, sites.c.id == bans.c.site_id)
        .outerjoin(site_queues, site_queues.c.id == bans.c.site_queue_id)
        .outerjoin(vos, vos.c.id == bans.c.vo_id)
        .order_by(bans.c.id)
    )


def _views(tx: Transaction, query: Select[Any]) -> list[BanView]:
    return [BanView.model_validate(row._asdict()) for row in tx.rows(query)]
