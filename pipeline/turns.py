"""The turns of a loop, as its process's health sees them: a loop that makes no progress is told from one that waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STILL_LIMIT = 20.0
"""Seconds without progress after which a process says that it should be restarted; told within 30 s, that is, by a
prober that asks every ten."""
OUTSIDE_LIMIT = 300.0
"""The same while it waits for the broker or the database, whose time-outs at one address, tried again and again, end
that before."""
HANG_LIMIT = 10.0
"""Seconds that it may wait for one of those until it says that it can't reach it."""
BROKER, DATABASE = "broker", "database"


class Turns:
    """Of one loop, told by its thread and asked by any other."""

    def __init__(self, limit: float = STILL_LIMIT, outside_limit: float = OUTSIDE_LIMIT) -> None:
        self._limit = limit
        self._outside_limit = outside_limit
        self._turned = time.monotonic()
        self._outside: tuple[str, float] | None = None

    def turned(self) -> None:
        """The loop begins another turn."""
        self._turned = time.monotonic()

    @contextmanager
    def outside(self, what: str) -> Iterator[None]:
        """It waits for `what`, the broker or the database: an outage of those is no reason to start a process again."""
        self._outside = (what, time.monotonic())
        try:
            yield
        finally:
            self._turned = time.monotonic()
            self._outside = None

    @property
    def seconds_outside(self) -> float | None:
        """How long it has been waiting for the broker or the database; None when it does not."""
        outside = self._outside
        return None if outside is None else time.monotonic() - outside[1]

    @property
    def hanging(self) -> str | None:
        """What has not answered it for too long."""
        outside = self._outside
        return outside[0] if outside is not None and time.monotonic() - outside[1] > HANG_LIMIT else None

    @property
    def seconds_still(self) -> float | None:
        """How long it has made no progress, if that is too long."""
        seconds_outside = self.seconds_outside
        if seconds_outside is not None:
            return seconds_outside if seconds_outside > self._outside_limit else None
        seconds = time.monotonic() - self._turned
        return seconds if seconds > self._limit else None
