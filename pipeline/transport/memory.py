"""A transport inside one process, for unit tests: handles of `memory://NAME` share the broker NAME."""

from __future__ import annotations

import itertools
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition
from urllib.parse import urlsplit

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Capabilities, Delivery, Depth
from schemas.messages import Message


@dataclass(slots=True)
class _Stored:
    payload: bytes
    published: float
    received: bool = False


@dataclass(slots=True)
class _Queue:
    ready: deque[_Stored] = field(default_factory=deque)
    held: dict[int, list[_Stored]] = field(default_factory=lambda: defaultdict(list))
    """By handle, what it has received and not acknowledged, oldest first."""


class MemoryBroker:
    """The queues of one name. A test may take the broker down and bring it up again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.changed = Condition()
        self.queues: dict[str, _Queue] = defaultdict(_Queue)
        self.up = True

    def stop(self) -> None:
        """Every call fails from now on, and all messages are gone."""
        with self.changed:
            self.up = False
            self.queues.clear()
            self.changed.notify_all()

    def start(self) -> None:
        """Serve again."""
        with self.changed:
            self.up = True

    def give_back(self, handle: int) -> None:
        """What the handle holds goes to the heads of its queues, in its order."""
        with self.changed:
            for queue in self.queues.values():
                queue.ready.extendleft(reversed(queue.held.pop(handle, [])))
            self.changed.notify_all()

    def check(self) -> None:
        """Raises BrokerUnavailable while it is down."""
        if not self.up:
            raise BrokerUnavailable(f"memory://{self.name} was stopped; start it")


_brokers: dict[str, MemoryBroker] = {}
_handles = itertools.count()


def memory_broker(name: str) -> MemoryBroker:
    """The broker of this name; it lives as long as the process."""
    return _brokers.setdefault(name, MemoryBroker(name))


def open_transport(url: str, consumer: str) -> MemoryTransport:
    """A handle of the broker that `url` (memory://NAME) names; who the consumer is makes no difference here."""
    del consumer
    return MemoryTransport(memory_broker(urlsplit(url).netloc))


class MemoryTransport:
    """One handle; dropped without `close`, it counts as a consumer that died."""

    capabilities = Capabilities(name="memory", durable=False, reports_age=True)

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._handle = next(_handles)
        self._closed = False
        self._release = weakref.finalize(self, broker.give_back, self._handle)

    def publish(self, messages: Sequence[Message]) -> None:
        """See the port."""
        now = time.monotonic()
        raw = [(message.queue, _Stored(message.encode(), now)) for message in messages]
        with self._broker.changed:
            self._check()
            for queue, stored in raw:
                self._broker.queues[queue].ready.append(stored)
            self._broker.changed.notify_all()

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """See the port."""
        with self._broker.changed:
            self._check()
            self._broker.changed.wait_for(lambda: not self._broker.up or self._broker.queues[queue].ready, wait)
            self._check()
            place = self._broker.queues[queue]
            taken = [place.ready.popleft() for _ in range(min(most, len(place.ready)))]
            place.held[self._handle] += taken
            deliveries = [Delivery(queue, stored.payload, stored.received, receipt=stored) for stored in taken]
            for stored in taken:
                stored.received = True
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See the port."""
        if self._closed:
            return
        with self._broker.changed:
            self._check()
            for delivery in deliveries:
                held = self._broker.queues[delivery.queue].held[self._handle]
                held[:] = [stored for stored in held if stored is not delivery.receipt]

    def depth(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """See the port."""
        now = time.monotonic()
        with self._broker.changed:
            self._check()
            return {name: _depth(self._broker.queues[name], now) for name in queues}

    def purge(self, queue: str) -> int:
        """See the port."""
        with self._broker.changed:
            self._check()
            ready = self._broker.queues[queue].ready
            purged = len(ready)
            ready.clear()
        return purged

    def close(self) -> None:
        """See the port."""
        self._closed = True
        self._release()

    def _check(self) -> None:
        if self._closed:
            raise BrokerUnavailable(f"this handle of memory://{self._broker.name} was closed; open another")
        self._broker.check()


def _depth(queue: _Queue, now: float) -> Depth:
    oldest = max(0.0, now - queue.ready[0].published) if queue.ready else None
    return Depth(len(queue.ready), sum(map(len, queue.held.values())), oldest)
