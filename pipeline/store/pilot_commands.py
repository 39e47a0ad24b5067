"""Drain and kill pilots, by filter and set-based, a bounded transaction at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, update

from pipeline.errors import NotFound
from pipeline.store.database import Database, Transaction, in_chunks
from pipeline.store.many_jobs import among
from pipeline.store.pilot_queries import queues_of
from pipeline.store.pilots import MAX_REASON
from pipeline.store.tables import pilots
from schemas.states import PILOT_PENDING, PilotState

PILOTS_PER_TRANSACTION = 2_000
"""Pilots' own calls wait for the rows that a transaction has locked."""
_HEARD = frozenset({PilotState.RUNNING, PilotState.LOST})
"""Those that a drain tells something new; a lost one is told when it comes back."""
_BEGUN = _HEARD | {PilotState.DRAINING}


@dataclass(frozen=True, slots=True)
class PilotFilter:
    """Which pilots of a VO are meant; conditions that are None (or empty) do not narrow."""

    vo_id: int
    ids: tuple[int, ...] = ()
    site: str | None = None
    queue: str | None = None
    states: tuple[PilotState, ...] = ()


@dataclass(slots=True)
class Told:
    """How many pilots a command has told something, and the site queues whose batch systems have work now."""

    removed: int = 0
    drained: int = 0
    ended: int = 0
    queue_ids: set[int] = field(default_factory=set)

    def add(self, more: Told) -> None:
        """Count what a further command did."""
        self.removed += more.removed
        self.drained += more.drained
        self.ended += more.ended
        self.queue_ids |= more.queue_ids


@dataclass(frozen=True, slots=True)
class _Order:
    """What pilots in some states are told, unless they were told before."""

    states: frozenset[PilotState]
    untold: tuple[ColumnElement[bool], ...]
    values: dict[str, Any]


def drain(database: Database, chosen: PilotFilter, why: str, *, dry_run: bool = False) -> Told:
    """Pending pilots are removed; active ones take no more jobs and end after those that they have.

    Raises NotFound for a site or a queue that nobody knows.
    """
    untold = (~pilots.c.drain_requested, ~pilots.c.remove_requested)
    order = _Order(_HEARD, untold, {"drain_requested": True, "reason": why[:MAX_REASON]})
    removed, queue_ids = _tell(database, chosen, _removal(why), dry_run=dry_run)
    drained, _ = _tell(database, chosen, order, dry_run=dry_run)
    return Told(removed=removed, drained=drained, queue_ids=queue_ids)


def end_now(database: Database, chosen: PilotFilter, why: str, *, dry_run: bool = False) -> Told:
    """Pending and active pilots are removed by their batch systems; the jobs that they have are lost and run again.

    Raises NotFound for a site or a queue that nobody knows.
    """
    values = {"remove_requested": True, "drain_requested": True, "reason": why[:MAX_REASON]}
    order = _Order(_BEGUN, (~pilots.c.remove_requested,), values)
    removed, queue_ids = _tell(database, chosen, _removal(why), dry_run=dry_run)
    ended, more = _tell(database, chosen, order, dry_run=dry_run)
    return Told(removed=removed, ended=ended, queue_ids=queue_ids | more)


def queues_meant(tx: Transaction, site: str | None, queue: str | None) -> list[int] | None:
    """The ids of the site queues of these names; None where neither narrows. Raises NotFound."""
    if site is None and queue is None:
        return None
    found = queues_of(tx, site, queue)
    if found:
        return found
    if site is not None and not queues_of(tx, site, None):
        raise NotFound(f"there is no site {site!r}; `penstock sites list` shows what there is", field="site")
    where = f"the site {site} has no queue {queue!r}" if site else f"no site has a queue {queue!r}"
    raise NotFound(f"{where}; `penstock sites list` shows what there is", field="queue")


def _removal(why: str) -> _Order:
    values = {"remove_requested": True, "reason": why[:MAX_REASON]}
    return _Order(PILOT_PENDING, (~pilots.c.remove_requested,), values)


def _tell(database: Database, chosen: PilotFilter, order: _Order, *, dry_run: bool) -> tuple[int, set[int]]:
    """How many were told, and on which site queues; rows are judged again when they are changed."""
    states = order.states & set(chosen.states) if chosen.states else order.states
    if not states:
        return 0, set()
    if dry_run:
        return database.read(partial(_count, chosen=chosen, order=order, states=states)), set()
    found = database.read(partial(_find, chosen=chosen, order=order, states=states))
    told = sum(
        database.transact(partial(_write, order=order, states=states, ids=chunk))
        for chunk in in_chunks(sorted(found), PILOTS_PER_TRANSACTION)
    )
    return told, set(found.values())


def _write(tx: Transaction, order: _Order, states: Collection[PilotState], ids: Sequence[int]) -> int:
    still = (pilots.c.state.in_(sorted(states)), *order.untold)
    return sum(
        tx.run(update(pilots).where(condition, *still).values(order.values)) for condition in among(pilots.c.id, ids)
    )


def _find(tx: Transaction, chosen: PilotFilter, order: _Order, states: Collection[PilotState]) -> dict[int, int]:
    """Their site queues by id. As a whole: a page in the order of ids would be sought among all that ever were."""
    query = _meant(tx, select(pilots.c.id, pilots.c.site_queue_id), chosen, order, states)
    return {row.id: row.site_queue_id for row in tx.rows(query)}


def _count(tx: Transaction, chosen: PilotFilter, order: _Order, states: Collection[PilotState]) -> int:
    return int(tx.scalar(_meant(tx, select(func.count()).select_from(pilots), chosen, order, states)))


def _meant(
    tx: Transaction, query: Select[Any], chosen: PilotFilter, order: _Order, states: Collection[PilotState]
) -> Select[Any]:
    """`query`, a selection from pilots, narrowed. MariaDB would go through all pilots that a VO ever had."""
    query = query.with_hint(pilots, "IGNORE INDEX (fk_pilots_vo_id)", "mysql")
    query = query.where(pilots.c.vo_id == chosen.vo_id, pilots.c.state.in_(sorted(states)), *order.untold)
    if chosen.ids:
        query = query.where(pilots.c.id.in_(chosen.ids))
    queue_ids = queues_meant(tx, chosen.site, chosen.queue)
    return query if queue_ids is None else query.where(pilots.c.site_queue_id.in_(queue_ids))
