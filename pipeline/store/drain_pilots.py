"""Pilots of what is drained: told to end after their jobs, or, when the deadline has passed, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select

from pipeline.store.database import Database, Transaction
from pipeline.store.drains import Drain
from pipeline.store.pilot_commands import PilotFilter, Told, drain, end_now
from pipeline.store.tables import pilots, sites
from schemas.drain_views import OF_PROCESSES, DrainKind
from schemas.states import PILOT_LIVE, PILOT_PENDING, PilotState

_TOLD_TO_DRAIN = or_(
    pilots.c.remove_requested,
    and_(pilots.c.drain_requested, pilots.c.state.not_in(PILOT_PENDING)),
    pilots.c.state == PilotState.DRAINING,
)
_TOLD_TO_END: ColumnElement[bool] = pilots.c.remove_requested


def tell(database: Database, what: Drain) -> Told:
    """Pending pilots are removed, active ones take no more jobs; when its deadline has passed and it kills, all end
    now. Those that were told before are left alone."""
    if what.kind in OF_PROCESSES:
        return Told()
    told = _tell(database, what, drain, _TOLD_TO_DRAIN)
    if what.is_overdue and what.kills:
        told.add(_tell(database, what, end_now, _TOLD_TO_END))
    return told


def _tell(database: Database, what: Drain, command: Callable[..., Told], is_told: ColumnElement[bool]) -> Told:
    """Site by site and VO by VO where anybody is untold."""
    total = Told()
    for vo_id, site in database.read(lambda tx: _untold(tx, what, is_told)):
        total.add(command(database, PilotFilter(vo_id=vo_id, site=site), what.words))
    return total


def _untold(tx: Transaction, what: Drain, is_told: ColumnElement[bool]) -> Iterable[tuple[int, str]]:
    """The VO and the site of each."""
    query: Any = select(pilots.c.vo_id, sites.c.name).join(sites, sites.c.id == pilots.c.site_id)
    # as everywhere: MariaDB would go through all pilots that a VO or a site ever had
    query = query.with_hint(pilots, "FORCE INDEX (ix_pilots_state_last_seen)", "mysql")
    query = query.where(pilots.c.state.in_(PILOT_LIVE), ~is_told)
    if what.kind is DrainKind.SITE:
        query = query.where(sites.c.name == what.target)
    if what.vo_id is not None:
        query = query.where(pilots.c.vo_id == what.vo_id)
    return sorted((row.vo_id, row.name) for row in tx.rows(query.distinct()))
