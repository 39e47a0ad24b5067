"""Where a driver's own thread puts what the broker delivers, until `receive` takes it."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from threading import Condition

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Delivery

LINGER = 0.005
"""Seconds that a batch which is not full waits for the next message: they come one by one, in quick succession."""

LONGEST_LINGER = 0.1
"""Seconds that it waits so in all: whoever receives has other things to do, and a trickle may never end."""


class Inbox:
    """Fetched and not yet received, by queue. One thread puts, another takes.

    Who takes is woken for a first message and for a full batch, not for each one between: that would cost more
    than all the rest.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._wanted = 0
        """With how many messages whoever waits is content; 0 when nobody waits."""
        self._waiting: dict[str, deque[Delivery]] = defaultdict(deque)
        self._failure: BrokerUnavailable | None = None

    def put(self, delivery: Delivery) -> None:
        """It has come."""
        waiting = self._waiting.get(delivery.queue)
        if waiting is None:
            with self._changed:
                waiting = self._waiting[delivery.queue]
        waiting.append(delivery)
        # Without the lock: who waits has said how many it wants before it looked how many there are.
        if 0 < self._wanted <= len(waiting):
            with self._changed:
                self._changed.notify()

    def fail(self, failure: BrokerUnavailable) -> None:
        """The connection is lost: what was fetched is the broker's again, and whoever waits or comes is told."""
        with self._changed:
            self._waiting.clear()
            self._failure = failure
            self._changed.notify_all()

    def take(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """Up to `most`; waits up to `wait` seconds for a first one. Raises BrokerUnavailable."""
        deadline = time.monotonic() + wait
        with self._changed:
            try:
                waiting = self._wait(queue, most, deadline)
            finally:
                self._wanted = 0
            return [waiting.popleft() for _ in range(min(most, len(waiting)))]

    def _wait(self, queue: str, most: int, deadline: float) -> deque[Delivery]:
        """The queue's messages, when there are enough, or when it is time to be content with what there is."""
        content_at = float("inf")
        while True:
            if self._failure is not None:
                raise BrokerUnavailable(str(self._failure)) from self._failure
            waiting = self._waiting[queue]
            before, now = len(waiting), time.monotonic()
            self._wanted = most if before else 1
            if before:
                content_at = min(content_at, now + LONGEST_LINGER)
            patience = min(LINGER, content_at - now) if before else deadline - now
            if len(waiting) >= most or patience <= 0:
                return waiting
            woken = len(waiting) > before or self._changed.wait(patience)
            if not woken and len(waiting) == before:
                return waiting
