"""A trigger process for a test: turns a clock of several triggers, and may kill itself right after publishing.

    python -m tests.integration.clock_process DATABASE_URL BROKER_URL NAME DIE_AFTER

DIE_AFTER is after how many published ticks it dies by SIGKILL, before they are recorded; 0: never.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from threading import Event
from typing import cast

from pipeline.store.database import Database
from pipeline.transport.port import Transport, open_transport
from pipeline.trigger import Trigger, tick
from schemas.messages import Message
from triggers.clock import Clock

TRIGGERS = {f"t{n}": Trigger(f"t{n}", "* * * * * *", tick(f"t{n}"), grace=30.0) for n in range(12)}


class DyingTransport:
    """Publishes for real, then dies when it has published enough."""

    def __init__(self, broker_url: str, name: str, die_after: int) -> None:
        self._inner = open_transport(broker_url, name)
        self._left = die_after

    def publish(self, messages: Sequence[Message]) -> None:
        self._inner.publish(messages)
        if self._left:
            self._left -= len(messages)
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def main(database_url: str, broker_url: str, name: str, die_after: int) -> None:
    transport = cast("Transport", DyingTransport(broker_url, name, die_after))
    clock = Clock(Database(database_url), transport, TRIGGERS, name)
    while True:
        clock.turn()
        Event().wait(0.1)  # the clock of a trigger process turns at a pace, too


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
