"""A consumer, a process of its own: notes each number that it receives, then acknowledges, until SIGTERM.

python -m tests.chaos.consumer URL QUEUE FOLDER NAME
"""

from __future__ import annotations

import signal
import sys
from itertools import cycle
from pathlib import Path
from threading import Event
from types import FrameType

from structlog import get_logger

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Transport, open_transport
from tests.chaos.history import History
from tests.chaos.numbers import NumberQueue

BATCHES = (20, 1, 100, 300)
"""Messages of a receive at the most, in turn."""
WAIT = 0.5
"""Seconds that a receive waits; SIGTERM is obeyed between two."""
PAUSE = 0.2
"""Seconds between two tries while the broker is away."""

_log = get_logger("chaos")


class Consumer:
    """Receives and acknowledges, whatever happens to the broker."""

    def __init__(self, transport: Transport, queue: NumberQueue, received: History) -> None:
        self._transport = transport
        self._queue = queue
        self._received = received
        self._batches = cycle(BATCHES)
        self._pause = Event()
        self._ending = False

    def run(self) -> None:
        """Consume until `end` was called."""
        while not self._ending:
            try:
                self._turn()
            except BrokerUnavailable as error:
                _log.warning("broker_lost", error=str(error))
                self._pause.wait(PAUSE)  # nothing tells when a broker is back

    def end(self, _number: int, _frame: FrameType | None) -> None:
        """A signal handler: the present turn is the last."""
        self._ending = True

    def _turn(self) -> None:
        deliveries = self._transport.receive(self._queue.name, next(self._batches), WAIT)
        if deliveries:
            self._received.note([self._queue.number(delivery) for delivery in deliveries])
            self._transport.acknowledge(deliveries)


def main(url: str, queue: str, folder: str, name: str) -> None:
    transport = open_transport(url, name)
    consumer = Consumer(transport, NumberQueue(queue), History(Path(folder) / f"received-{name}.txt"))
    signal.signal(signal.SIGTERM, consumer.end)
    consumer.run()
    transport.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
