"""Where a driver's own thread puts what the broker delivers, until `receive` takes it."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from threading import Condition

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Delivery

LINGER = 0.005
"""Seconds that a batch which is not full waits for the next message: they come one by one, in quick succession."""


class Inbox:
    """Fetched and not yet received, by queue. One thread puts, another takes."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: dict[str, deque[Delivery]] = defaultdict(deque)
        self._failure: BrokerUnavailable | None = None

    def put(self, delivery: Delivery) -> None:
        """It has come."""
        with self._changed:
            self._waiting[delivery.queue].append(delivery)
            self._changed.notify()

    def fail(self, failure: BrokerUnavailable) -> None:
        """The connection is lost: what was fetched is the broker's again, and whoever waits is told."""
        with self._changed:
            self._waiting.clear()
            self._failure = failure
            self._changed.notify_all()

    def reopen(self) -> None:
        """There is a connection again."""
        with self._changed:
            self._failure = None

    def forget(self, queue: str) -> None:
        """What was fetched of this queue is the broker's again."""
        with self._changed:
            self._waiting.pop(queue, None)

    def take(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """Up to `most`; waits up to `wait` seconds for a first one. Raises BrokerUnavailable."""
        deadline = time.monotonic() + wait
        taken: list[Delivery] = []
        with self._changed:
            while True:
                if self._failure is not None:
                    raise BrokerUnavailable(str(self._failure)) from self._failure
                waiting = self._waiting[queue]
                while waiting and len(taken) < most:
                    taken.append(waiting.popleft())
                patience = LINGER if taken else deadline - time.monotonic()
                if len(taken) == most or patience <= 0 or not self._changed.wait(patience):
                    return taken
