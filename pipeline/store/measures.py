"""What is measured over the whole system at each tick: small tables as a whole, large ones by an index that fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import func, select

from pipeline.metrics import STORED
from pipeline.store import marks, metric_values, pilot_counts
from pipeline.store.database import Transaction
from pipeline.store.metric_values import Key
from pipeline.store.tables import campaigns, dead_letters, deferred_messages, site_queues, steps
from schemas.states import StepState

MEASURED = "system_measured"
_GAUGES = tuple(metric.name for metric in STORED if metric.kind == "gauge" and not metric.is_sum)
_OPEN_STEPS = (StepState.OPEN, StepState.RUNNING, StepState.BLOCKED)


def measure(tx: Transaction, *, queues: Iterable[str], heartbeat_timeout: float) -> None:
    """Measure all of it and keep it instead of what was kept before. `queues` are told of also where nothing waits."""
    marks.lock(tx, MEASURED)  # of two ticks that come late the second one waits
    values = {
        **pilot_counts.living(tx),
        **pilot_counts.silent(tx, heartbeat_timeout),
        **_messages(tx, queues),
        **_campaigns(tx),
        **_failures(tx),
    }
    metric_values.replace(tx, _GAUGES, values)


def _messages(tx: Transaction, queues: Iterable[str]) -> Mapping[Key, float]:
    kinds = (("penstock_deferred_messages", deferred_messages), ("penstock_dead_letters_kept", dead_letters))
    nothing: dict[Key, float] = {(name, (queue,)): 0.0 for queue in queues for name, _ in kinds}
    return nothing | {
        (name, (row.queue,)): row.many
        for name, table in kinds
        for row in tx.rows(select(table.c.queue, func.count().label("many")).group_by(table.c.queue))
    }


def _campaigns(tx: Transaction) -> Mapping[Key, float]:
    kind = (campaigns.c.vo_id, campaigns.c.state)
    found: dict[Key, float] = {
        ("penstock_campaigns", (row.state, row.vo_id)): row.many
        for row in tx.rows(select(*kind, func.count().label("many")).group_by(*kind))
    }
    query = select(steps.c.state, func.count().label("many")).where(steps.c.state.in_(_OPEN_STEPS))
    return found | {("penstock_steps", (row.state,)): row.many for row in tx.rows(query.group_by(steps.c.state))}


def _failures(tx: Transaction) -> Mapping[Key, float]:
    query = select(site_queues.c.id, site_queues.c.site_id, site_queues.c.failures).where(site_queues.c.declared)
    return {("penstock_site_queue_failures", (row.site_id, row.id)): row.failures for row in tx.rows(query)}
