"""What `/metrics` of the API tells of the whole system: read from the database and the broker when it is asked."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.api.publisher import Publisher
from pipeline.api.question import Question
from pipeline.errors import BrokerUnavailable, DatabaseUnavailable
from pipeline.metrics import STORED
from pipeline.queue_views import LIVE_WITHIN, complete, serving
from pipeline.runtime.spec import declared_queues
from pipeline.settings import Settings
from pipeline.store import event_counts, instances, marks, metric_values, trigger_runs
from pipeline.store.database import Database, Transaction
from pipeline.store.instances import InstanceRow
from pipeline.store.metric_values import Key, Labels, Names
from pipeline.transport.port import Depth
from pipeline.trigger import Trigger, find_triggers

PATIENCE = 3.0
"""Seconds within which database and broker are to answer: Prometheus gives the whole of it ten."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the database tells."""

    instances: Sequence[InstanceRow]
    values: Mapping[Key, float]
    names: Names
    lags: Mapping[str, float] = field(default_factory=dict)
    """For how many seconds each trigger's next tick has been due."""
    age: float | None = None
    """Seconds since that up to which events are counted; None before any were."""


class SystemMetrics:
    """Belongs to one event loop, and has threads of its own: requests that wait for the database take none of them."""

    def __init__(self) -> None:
        self._database: Question[_Kept] = Question()
        self._broker: Question[Mapping[str, Depth]] = Question()
        self._writing = CapacityLimiter(1)
        self._settings: Settings | None = None
        self._triggers: Mapping[str, Trigger] = {}
        self._queues: tuple[str, ...] = ()

    async def tell(self, settings: Settings, database: Database, publisher: Publisher) -> bytes:
        """All that this process tells, in Prometheus' words, within a few seconds.

        What nobody knows has no sample: the outage itself has one.
        """
        if settings is not self._settings:  # what is installed does not change, and takes long to be found
            self._triggers, self._queues = find_triggers(settings), declared_queues()
            self._settings = settings
        kept, depths = await asyncio.gather(self._kept(database), self._depths(publisher))
        return await to_thread.run_sync(partial(_written, self._queues, kept, depths), limiter=self._writing)

    async def _kept(self, database: Database) -> _Kept | None:
        triggers = self._triggers
        try:
            return await self._database.answer(lambda: database.read(lambda tx: _read(tx, triggers)), PATIENCE)
        except (DatabaseUnavailable, TimeoutError):
            return None

    async def _depths(self, publisher: Publisher) -> Mapping[str, Depth] | None:
        try:
            return await self._broker.answer(partial(publisher.depth, self._queues), PATIENCE)
        except (BrokerUnavailable, TimeoutError):
            return None


def _written(queues: Sequence[str], kept: _Kept | None, depths: Mapping[str, Depth] | None) -> bytes:
    families = [
        *_ups(depths is not None, kept is not None),
        *_queue_families(queues, depths, None if kept is None else kept.instances),
        *(() if kept is None else _families(kept)),
    ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(families))
    return generate_latest() + generate_latest(registry)


def _read(tx: Transaction, triggers: Mapping[str, Trigger]) -> _Kept:
    lags = {}
    for name, trigger in triggers.items():
        last = trigger_runs.last_told(tx, name)
        if last is not None:
            lags[name] = max(0.0, (tx.now - trigger.next_due(last)).total_seconds())
    mark = marks.read(tx, event_counts.COUNTED)
    return _Kept(
        instances=instances.list_instances(tx),
        values=metric_values.everything(tx),
        names=metric_values.names(tx),
        lags=lags,
        age=None if mark is None else (tx.now - mark.at).total_seconds(),
    )


def _queue_families(
    queues: Sequence[str], depths: Mapping[str, Depth] | None, rows: Sequence[InstanceRow] | None
) -> Iterator[Metric]:
    told = {} if depths is None else depths
    known = told if rows is None else {queue: complete(queue, depth, rows) for queue, depth in told.items()}
    serve: Mapping[str, float] = {} if rows is None else {queue: len(serving(queue, rows)) for queue in queues}
    ready = {queue: depth.ready for queue, depth in known.items()}
    in_flight = {queue: depth.in_flight for queue, depth in known.items()}
    ages = {queue: depth.oldest_age for queue, depth in known.items()}
    yield _of_queues("penstock_queue_ready", "Messages that wait in the broker", ready)
    yield _of_queues("penstock_queue_in_flight", "Messages with consumers", in_flight)
    yield _of_queues("penstock_queue_oldest_age_seconds", "Wait of the oldest waiting message", ages)
    yield _of_queues("penstock_queue_consumers", "Live consumers", serve)


def _of_queues(name: str, words: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=("queue",))
    for queue, value in values.items():
        if value is not None:
            family.add_metric((queue,), value)
    return family


def _ups(broker: bool, database: bool) -> Iterator[Metric]:
    yield GaugeMetricFamily("penstock_broker_up", "Whether the API reaches the broker", value=broker)
    yield GaugeMetricFamily("penstock_database_up", "Whether the API reaches the database", value=database)


def _families(kept: _Kept) -> Iterator[Metric]:
    live = Counter((row.kind, row.version) for row in kept.instances if row.silence < LIVE_WITHIN)
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
    by_name: defaultdict[str, list[tuple[Labels, float]]] = defaultdict(list)
    for (name, labels), number in kept.values.items():
        by_name[name].append((labels, number))
    for stored in STORED:
        kind = CounterMetricFamily if stored.kind == "counter" else GaugeMetricFamily
        family = kind(stored.name.removesuffix("_total"), stored.help, labels=stored.labels)
        for labels, number in sorted(by_name[stored.name], key=repr):
            said = zip(stored.labels, labels, strict=True)
            family.add_metric([kept.names.said(label, value) for label, value in said], number)
        yield family


class _Told(Collector):
    """Families that are there already, as a registry wants them."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        """All of them."""
        return self._families
