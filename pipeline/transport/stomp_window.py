"""What a consumer has asked for, received and not yet acknowledged on one STOMP connection, queue by queue."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from pipeline.transport.port import Delivery
from pipeline.transport.stomp_connection import AckId, StompConnection

PAUSE = 5.0
"""Seconds without `receive` after which a queue counts as paused, and what was fetched of it shall go to others."""
_PAGE = 200
"""Messages that one subscription may hold. ActiveMQ turns a page of so many for each new subscription, and stops
there until something is acknowledged or published, however great the subscription's prefetch is."""


class Windows:
    """The subscriptions of one connection: how many messages they may hold, and which ones the caller holds."""

    def __init__(self, connection: StompConnection) -> None:
        self._connection = connection
        self._sizes: dict[str, int] = defaultdict(int)
        self._received: dict[str, set[str]] = defaultdict(set)
        self._called: dict[str, float] = {}

    def lacking(self, queue: str, most: int) -> list[int]:
        """The further subscriptions without which `most` messages can't be received: how many each must hold."""
        self._called[queue] = time.monotonic()
        missing = max(0, len(self._received[queue]) + most - self._sizes[queue])
        pages, rest = divmod(missing, _PAGE)
        return [_PAGE] * pages + [rest] * (rest > 0)

    def widen(self, queue: str, sizes: Sequence[int]) -> None:
        """There are further subscriptions."""
        self._sizes[queue] += sum(sizes)

    def hand_out(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        """The caller has them now."""
        self._called[queue] = time.monotonic()
        self._received[queue].update(delivery.receipt.name for delivery in deliveries)

    def settle(self, deliveries: Sequence[Delivery]) -> list[str]:
        """The names to acknowledge: each once, and only what came by this connection."""
        names = []
        for delivery in deliveries:
            receipt: AckId = delivery.receipt
            received = self._received[delivery.queue]
            if receipt.connection is self._connection and receipt.name in received:
                received.remove(receipt.name)
                names.append(receipt.name)
        return names

    def should_end(self, wanted: str | None = None) -> bool:
        """Whether some queue is paused, and the caller holds nothing that the end of the connection would give back.

        The queue that is `wanted` now is not: its consumer was at work on a long batch.
        """
        now = time.monotonic()
        paused = any(now - called > PAUSE for queue, called in self._called.items() if queue != wanted)
        return paused and not any(self._received.values())
