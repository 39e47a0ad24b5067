"""Pilots as metrics: those that live, by state and site queue and by meta-site, and each that has ended, once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from pipeline.store import marks, metric_values
from pipeline.store.database import Transaction
from pipeline.store.metric_values import Key
from pipeline.store.pilot_caps import members
from pipeline.store.silence import PAUSED
from pipeline.store.tables import controls, pilots, site_queues
from schemas.states import PILOT_ACTIVE, PILOT_FINAL, PILOT_LIVE

ENDED = "pilots_counted"
"""Microseconds since 1970 up to which ends are counted."""
SETTLED = 30.0
"""Seconds after which whoever ended a pilot has at least changed its row: no transaction lives longer than 5."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def count_ended(tx: Transaction, *, settled: float = SETTLED) -> None:
    """Count the pilots that have ended since the last time. Raises marks.Held."""
    until = (tx.after(-settled) - _EPOCH) // _MICROSECOND
    counted = marks.lock(tx, ENDED, begin=until)
    if until <= counted.value:
        return
    kind = (pilots.c.state, pilots.c.site_id, pilots.c.site_queue_id)
    lately = (
        pilots.c.ended_at > _EPOCH + counted.value * _MICROSECOND,
        pilots.c.ended_at <= _EPOCH + until * _MICROSECOND,
    )
    query = select(*kind, func.count().label("many")).where(*lately).group_by(*kind)
    deltas: Counter[Key] = Counter(_nothing_yet(tx))
    for row in marks.committed(tx, query):
        if row.state in PILOT_FINAL:
            deltas["penstock_pilots_ended_total", (row.state, row.site_id, row.site_queue_id)] += row.many
    metric_values.add(tx, deltas)
    marks.move(tx, ENDED, until, tx.now)


def _nothing_yet(tx: Transaction) -> Mapping[Key, int]:
    """Prometheus sees no rise in a series that begins with it: the first pilots of a new queue may all have failed."""
    declared = tx.rows(select(site_queues.c.id, site_queues.c.site_id).where(site_queues.c.declared))
    return {
        ("penstock_pilots_ended_total", (state, row.site_id, row.id)): 0 for row in declared for state in PILOT_FINAL
    }


def living(tx: Transaction) -> Mapping[Key, float]:
    """By state, site and queue, and the same of each meta-site."""
    queues = tx.rows(select(site_queues.c.id, site_queues.c.site_id))
    site_of = {row.id: row.site_id for row in queues}
    here = (pilots.c.site_queue_id.in_(sorted(site_of)), pilots.c.state.in_(PILOT_LIVE))
    query = select(pilots.c.site_queue_id, pilots.c.state, func.count().label("many")).where(*here)
    found: Counter[Key] = Counter()
    metas: defaultdict[int, list[str]] = defaultdict(list)
    for name, queue_ids in members(tx).items():
        for queue_id in queue_ids:
            metas[queue_id].append(name)
    for row in tx.rows(query.group_by(pilots.c.site_queue_id, pilots.c.state)):
        place = (site_of[row.site_queue_id], row.site_queue_id)
        found["penstock_pilots", (row.state, *place)] += row.many
        for name in metas[row.site_queue_id]:
            found["penstock_meta_site_pilots", (row.state, name, *place)] += row.many
    return found


def silent(tx: Transaction, timeout: float) -> Mapping[Key, float]:
    """Active pilots that have said nothing for longer than `timeout` seconds, and whether that is not acted on."""
    unheard = (pilots.c.state.in_(PILOT_ACTIVE), pilots.c.last_seen < tx.after(-timeout))
    many = tx.scalar(select(func.count()).select_from(pilots).where(*unheard))
    paused = tx.scalar(select(func.count()).select_from(controls).where(controls.c.name == PAUSED))
    return {("penstock_silent_pilots", ()): many, ("penstock_rescheduling_paused", ()): paused}
