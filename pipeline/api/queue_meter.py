"""Measuring the queues every 10 s: each API process does, the first measurement counts, and all of them show it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean
from threading import Thread

from structlog import get_logger

from pipeline.api.services import Services
from pipeline.errors import BrokerUnavailable, DatabaseUnavailable
from pipeline.metrics import ARRIVALS, SECONDS_PER_MESSAGE, WORKERS_WANTED
from pipeline.queue_views import complete, load_of, serving
from pipeline.scaling import Bounds, Capacity, Reading, Size, measure
from pipeline.settings_check import queue_bounds
from pipeline.store.database import Transaction
from pipeline.store.instances import InstanceRow, list_instances
from pipeline.store.queue_sizes import PutOff, Work, age, all_work, keep, put_off, sizes
from pipeline.transport.port import Depth

INTERVAL = 10.0
"""Seconds between two measurements of a queue, whoever makes them."""
_LEAST_REST, _JITTER = 0.5, 0.5
_STOP_WITHIN = 2.0
_CHANCE = random.SystemRandom()

_log = get_logger("api")


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database tells, read in one transaction; `before` is what the measurements go on from."""

    now: datetime
    before: Mapping[str, Size]
    rows: Sequence[InstanceRow]
    work: Mapping[str, Work]
    put_off: Mapping[str, PutOff]


@dataclass(slots=True)
class QueueMeter:
    """What an API process measures, one turn after another."""

    services: Services

    def turn(self) -> float:
        """Measure what is due, show what was measured last; seconds until something is due again.

        Raises DatabaseUnavailable and BrokerUnavailable, upon which what was wanted stays wanted.
        """
        database = self.services.database
        bounds = queue_bounds(self.services.settings)
        before, now = database.read(lambda tx: (sizes(tx), tx.now))
        show(size for queue, size in before.items() if queue in bounds)
        ages = {queue: age(before[queue], now) if queue in before else INTERVAL for queue in bounds}
        due = [queue for queue, seconds in ages.items() if seconds >= INTERVAL]
        if due:
            told = self.services.publisher.depth(due)
            known = database.read(lambda tx: _read(tx, before))
            measured = {queue: self._measure(queue, told[queue], known, bounds[queue]) for queue in due}
            kept = database.transact(lambda tx: keep(tx, measured, before))  # what another measured meanwhile stands
            show(kept.values())
        return max((INTERVAL - seconds for seconds in ages.values() if seconds < INTERVAL), default=INTERVAL)

    def run(self) -> None:
        """Turn until the process stops."""
        stopping, lost = self.services.stopping, False
        while not stopping.is_set():
            rest = INTERVAL
            try:
                rest = self.turn()
                lost = False
            except (DatabaseUnavailable, BrokerUnavailable) as error:
                if not lost:
                    _log.warning("queues_not_measured", error=str(error))
                lost = True
            except Exception:  # noqa: BLE001 - the thread's boundary: a turn that failed for good would be the last
                _log.exception("queue_meter_failed")
            stopping.wait(max(rest, _LEAST_REST) + _CHANCE.uniform(0, _JITTER))

    def _measure(self, queue: str, told: Depth, known: _Known, bounds: Bounds) -> Size:
        settings = self.services.settings
        before = known.before.get(queue)
        reading = _reading(queue, told, known, before)
        slots = [load.slots for row in serving(queue, known.rows) if (load := load_of(row, queue)) and load.slots]
        capacity = Capacity(fmean(slots) if slots else settings.consumer_slots, settings.queue_wait)
        if told.ready is None:  # with nobody who serves it, nobody would know that somebody is needed
            bounds = replace(bounds, least=max(1, bounds.least))
        return measure(before, reading, capacity, bounds)


@contextmanager
def measuring(services: Services) -> Iterator[None]:
    """Measure the queues in a thread of its own until the block ends."""
    meter = QueueMeter(services)
    thread = Thread(target=meter.run, name="queue-meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        services.stopping.set()
        thread.join(_STOP_WITHIN)


def show(measured: Iterable[Size]) -> None:
    """Set this process's gauges."""
    for size in measured:
        WORKERS_WANTED.labels(size.queue).set(size.wanted)
        ARRIVALS.labels(size.queue).set(size.arrivals)
        if size.seconds is not None:
            SECONDS_PER_MESSAGE.labels(size.queue).set(size.seconds)


def _read(tx: Transaction, before: Mapping[str, Size]) -> _Known:
    return _Known(tx.now, before, list_instances(tx), all_work(tx), put_off(tx))


def _reading(queue: str, told: Depth, known: _Known, before: Size | None) -> Reading:
    depth = complete(queue, told, known.rows)
    ready = depth.ready
    if ready is None:  # the broker does not tell: what arrived since the oldest did
        ready = round((before.arrivals if before else 0.0) * (depth.oldest_age or 0.0))
    work, later = known.work.get(queue, Work(queue)), known.put_off.get(queue, PutOff())
    return Reading(
        queue=queue,
        measured_at=known.now,
        settled=work.settled,
        busy_seconds=work.busy_seconds,
        backlog=ready + (depth.in_flight or 0) + later.due,
        deferred=later.later,
        oldest_age=depth.oldest_age,
        workers=len(serving(queue, known.rows)),
    )
