"""What `/metrics` of the API tells of the whole system: read from the database and the broker when it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.api.services import Services
from pipeline.errors import BrokerUnavailable, DatabaseUnavailable
from pipeline.metrics import QUEUE_CONSUMERS, QUEUE_IN_FLIGHT, QUEUE_OLDEST_AGE, QUEUE_READY, STORED
from pipeline.queue_views import LIVE_WITHIN, complete, serving
from pipeline.runtime.spec import declared_queues
from pipeline.store import event_counts, instances, marks, metric_values, trigger_runs
from pipeline.store.database import Transaction
from pipeline.store.instances import InstanceRow
from pipeline.store.metric_values import Key, Names
from pipeline.transport.port import Depth
from pipeline.trigger import Trigger, find_triggers

_QUEUE_GAUGES = (QUEUE_READY, QUEUE_IN_FLIGHT, QUEUE_OLDEST_AGE, QUEUE_CONSUMERS)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the database tells."""

    rows: Sequence[InstanceRow]
    values: Mapping[Key, float]
    names: Names
    lags: Mapping[str, float] = field(default_factory=dict)
    """For how many seconds each trigger's next tick has been due."""
    age: float | None = None
    """Seconds since that up to which events are counted; None before any were."""


def system_metrics(services: Services) -> bytes:
    """In Prometheus' words. What nobody knows has no sample: the outage itself has one."""
    triggers = find_triggers(services.settings)
    try:
        kept = services.database.read(lambda tx: _read(tx, triggers))
    except DatabaseUnavailable:
        kept = None
    queues = declared_queues()
    try:
        depths: Mapping[str, Depth] | None = services.publisher.depth(queues)
    except BrokerUnavailable:
        depths = None
    for queue in queues:
        _tell_queue(queue, None if depths is None else depths[queue], None if kept is None else kept.rows)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told([*_ups(depths is not None, kept is not None), *(() if kept is None else _families(kept))]))
    return generate_latest(registry)


def _read(tx: Transaction, triggers: Mapping[str, Trigger]) -> _Kept:
    lags = {}
    for name, trigger in triggers.items():
        last = trigger_runs.last_told(tx, name)
        if last is not None:
            lags[name] = max(0.0, (tx.now - trigger.next_due(last)).total_seconds())
    mark = marks.read(tx, event_counts.COUNTED)
    return _Kept(
        rows=instances.list_instances(tx),
        values=metric_values.everything(tx),
        names=metric_values.names(tx),
        lags=lags,
        age=None if mark is None else (tx.now - mark.at).total_seconds(),
    )


def _tell_queue(queue: str, told: Depth | None, rows: Sequence[InstanceRow] | None) -> None:
    depth = told if told is None or rows is None else complete(queue, told, rows)
    numbers = (None, None, None) if depth is None else (depth.ready, depth.in_flight, depth.oldest_age)
    consumers = None if rows is None else len(serving(queue, rows))
    for gauge, value in zip(_QUEUE_GAUGES, (*numbers, consumers), strict=True):
        if value is None:
            gauge.remove(queue)
        else:
            gauge.labels(queue).set(value)


def _ups(broker: bool, database: bool) -> Iterator[Metric]:
    yield GaugeMetricFamily("penstock_broker_up", "Whether the API reaches the broker", value=broker)
    yield GaugeMetricFamily("penstock_database_up", "Whether the API reaches the database", value=database)


def _families(kept: _Kept) -> Iterator[Metric]:
    live = Counter((row.kind, row.version) for row in kept.rows if row.silence < LIVE_WITHIN)
    processes = GaugeMetricFamily("penstock_instances", "Live processes", labels=("kind", "version"))
    for (kind, version), many in sorted(live.items()):
        processes.add_metric((kind, version), many)
    lags = GaugeMetricFamily("penstock_trigger_lag_seconds", "For how long a tick has been due", labels=("trigger",))
    for name, lag in kept.lags.items():
        lags.add_metric((name,), lag)
    yield from (processes, lags)
    if kept.age is not None:
        yield GaugeMetricFamily("penstock_count_age_seconds", "Age of what the system counts", value=kept.age)
    yield from _stored(kept)


def _stored(kept: _Kept) -> Iterator[Metric]:
    for stored in STORED:
        kind = CounterMetricFamily if stored.kind == "counter" else GaugeMetricFamily
        family = kind(stored.name.removesuffix("_total"), stored.help, labels=stored.labels)
        for (name, values), number in sorted(kept.values.items(), key=repr):
            if name == stored.name:
                said = zip(stored.labels, values, strict=True)
                family.add_metric([kept.names.said(label, value) for label, value in said], number)
        yield family


class _Told(Collector):
    """Families that are there already, as a registry wants them."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        """All of them."""
        return self._families
