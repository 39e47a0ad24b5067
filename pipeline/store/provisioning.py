"""What pilots are planned from, read in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import exists, select, update

from pipeline.store import limits
from pipeline.store.bans import banned_queues, tested_queues
from pipeline.store.database import Transaction
from pipeline.store.live_pilots import live_pilots
from pipeline.store.nodes import resting_queues
from pipeline.store.pilot_caps import caps
from pipeline.store.provisioning_rows import DemandReading, Past, Place, Room, Situation
from pipeline.store.queue_backoff import is_at_work, left_alone
from pipeline.store.queue_histories import histories
from pipeline.store.tables import controls, pilots, queue_plans, site_queues, sites, vos
from schemas.sites import SiteQueueEntry
from schemas.states import PILOT_LIVE

_CYCLE = "provisioning_cycle"


def begin_cycle(tx: Transaction, cycle: int) -> bool:
    """Claim a cycle: True for the first caller alone."""
    _add_cycle(tx)
    newer = (controls.c.name == _CYCLE, controls.c.value < cycle)
    return tx.run(update(controls).where(*newer).values(value=cycle, at=tx.now)) == 1


def present_cycle(tx: Transaction) -> int:
    """The cycle that was planned last."""
    return int(tx.scalar(select(controls.c.value).where(controls.c.name == _CYCLE)) or 0)


def lock_cycle(tx: Transaction) -> datetime:
    """When a cycle was begun last. Nobody plans, nor orders, until this transaction ends: limits stay exact."""
    query = select(controls.c.at).where(controls.c.name == _CYCLE)
    rows = tx.lock(query)
    if not rows:
        _add_cycle(tx)
        rows = tx.lock(query)
    at: datetime = rows[0].at
    return at


def situation(tx: Transaction, reading: DemandReading) -> Situation:
    """All else that a plan of this demand is made from, by the database's clock."""
    rooms = tuple(_rooms(tx))
    entries = {room.site_queue_id: room.entry for room in rooms}
    known = limits.of(tx, {one.vo_id for one in reading.demand}, {room.site_id for room in rooms})
    return Situation(
        now=tx.now,
        reading=reading,
        rooms=rooms,
        pilots=tuple(live_pilots(tx, entries)),
        past=_past(tx),
        history=histories(tx),
        caps=tuple(caps(tx)),
        limits=tuple(known),
    )


def busy_queues(tx: Transaction) -> list[int]:
    """Site queues that have live pilots, or outputs to fetch, and are neither backed off nor stamped by a dead letter.
    The queues are scanned, and of their pilots the index."""
    mine = pilots.c.site_queue_id == site_queues.c.id
    live = exists().where(mine, pilots.c.state.in_(PILOT_LIVE))
    wanted = exists().where(mine, pilots.c.output_wanted_at.is_not(None))
    query = select(site_queues.c.id).where(is_at_work(tx.now), site_queues.c.dead_letter_id.is_(None), live | wanted)
    return [row.id for row in tx.rows(query.order_by(site_queues.c.id))]


def _add_cycle(tx: Transaction) -> None:
    tx.add_missing(controls, [{"name": _CYCLE, "value": 0, "since": tx.now, "at": tx.now}])


def _past(tx: Transaction) -> Mapping[Place, Past]:
    return {
        (row.site_queue_id, row.vo_id): Past(row.low_cycles, row.hold_until) for row in tx.rows(select(queue_plans))
    }


def _rooms(tx: Transaction) -> Iterator[Room]:
    known = {row.name: row for row in tx.rows(select(vos.c.name, vos.c.id, vos.c.share))}
    banned, tested, resting = banned_queues(tx), tested_queues(tx), resting_queues(tx)
    query = (
        select(site_queues, sites.c.name.label("site"))
        .join(sites, sites.c.id == site_queues.c.site_id)
        .where(site_queues.c.declared, sites.c.declared)
        .order_by(site_queues.c.id)
    )
    for row in tx.rows(query):
        entry = _entry(row.entry)
        trouble = _trouble(row, tx.now) or (resting[row.id][1] if row.id in resting else "")
        for vo in [known[name] for name in entry.vos if name in known]:
            everybody, own = (row.id, None), (row.id, vo.id)
            is_banned = bool({everybody, own} & banned)
            yield Room(
                site_queue_id=row.id,
                site_id=row.site_id,
                site=row.site,
                vo_id=vo.id,
                entry=entry,
                closed="is banned" if is_banned else trouble,
                only_job_type=tested.get(everybody, tested.get(own)),
                share=vo.share,
                banned=is_banned,
            )


@lru_cache(maxsize=5_000)
def _entry(body: str) -> SiteQueueEntry:
    """Parsed once, and the same object from cycle to cycle, by which plans know it again."""
    return SiteQueueEntry.model_validate_json(body)


def _trouble(row: Any, now: datetime) -> str:
    """Why nothing new may be requested of a site queue, as far as its own row says it."""
    if row.dead_letter_id is not None:
        return f"waits for the dead letter {row.dead_letter_id}"
    if alone := left_alone(row.backoff_until, row.reason, now):
        until, why = alone
        return f"backs off until {until:%H:%M:%S} UTC: {why}"
    return ""
