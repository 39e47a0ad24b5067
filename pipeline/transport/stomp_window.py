"""What a consumer has asked for, received and not yet acknowledged on one STOMP connection, queue by queue."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from pipeline.transport.port import Delivery
from pipeline.transport.stomp_connection import AckId, StompConnection

PAUSE = 5.0
"""Seconds without `receive` after which a queue counts as paused, and what was fetched of it shall go to others."""
_GREATEST = 10_000
"""Messages that one subscription may hold; RabbitMQ's count has 16 bits."""


class Windows:
    """The subscriptions of one connection: how many messages they may hold, and which ones the caller holds."""

    def __init__(self, connection: StompConnection) -> None:
        self._connection = connection
        self._sizes: dict[str, int] = defaultdict(int)
        self._received: dict[str, set[str]] = defaultdict(set)
        self._called: dict[str, float] = {}

    def lacking(self, queue: str, most: int) -> int:
        """How many more messages a further subscription must be able to hold, so that `most` can be received."""
        self._called[queue] = time.monotonic()
        return min(len(self._received[queue]) + most - self._sizes[queue], _GREATEST)

    def widen(self, queue: str, size: int) -> None:
        """There is a further subscription."""
        self._sizes[queue] += size

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

    def should_end(self) -> bool:
        """Whether some queue is paused, and the caller holds nothing that the end of the connection would give back."""
        paused = any(time.monotonic() - called > PAUSE for called in self._called.values())
        return paused and not any(self._received.values())
