"""The publisher, a process of its own: publishes numbers until as many are confirmed as it is told, line by line.

python -m tests.chaos.publisher URL QUEUE FOLDER < LIMITS
"""

from __future__ import annotations

import sys
from itertools import count, cycle, islice
from pathlib import Path
from threading import Event

from structlog import get_logger

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Transport, open_transport
from tests.chaos.history import History
from tests.chaos.numbers import NumberQueue

BATCHES = (1, 1_000, 10, 100)
"""Messages of a call, in turn: mostly more at once than consumers take, so that the broker has a backlog to lose."""
PAUSE = 0.2
"""Seconds between two tries while the broker is away."""

_log = get_logger("chaos")


class Publisher:
    """Publishes ever higher numbers.

    Of two failed batches one is left in doubt, as by a publisher that dies then, and the other is repeated until it
    is confirmed, as the runtime does with its follow-ups.
    """

    def __init__(self, transport: Transport, queue: NumberQueue, folder: Path) -> None:
        self._transport = transport
        self._queue = queue
        self._attempted = History(folder / "attempted-1.txt")
        self._confirmed = History(folder / "confirmed-1.txt")
        self._numbers = count()
        self._batches = cycle(BATCHES)
        self._sure = 0
        self._repeats = False
        self._pause = Event()

    def publish_until(self, limit: int) -> None:
        """Return when `limit` numbers have been confirmed altogether."""
        while self._sure < limit:
            self._publish(list(islice(self._numbers, min(next(self._batches), limit - self._sure))))

    def _publish(self, numbers: list[int]) -> None:
        messages = [self._queue.message(number) for number in numbers]
        self._attempted.note(numbers)
        while True:
            try:
                self._transport.publish(messages)
            except BrokerUnavailable as error:
                _log.warning("broker_lost", first=numbers[0], last=numbers[-1], error=str(error))
                self._pause.wait(PAUSE)  # nothing tells when a broker is back
                if not self._repeats:
                    self._repeats = True
                    return
            else:
                self._confirmed.note(numbers)
                self._sure += len(numbers)
                self._repeats = False
                return


def main(url: str, queue: str, folder: str) -> None:
    transport = open_transport(url, "chaos-publisher")
    publisher = Publisher(transport, NumberQueue(queue), Path(folder))
    for line in sys.stdin:
        publisher.publish_until(int(line))
    transport.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
