"""The turns of a loop, as its process's health sees them: a loop that makes no progress is told from one that waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STILL_LIMIT = 20.0
"""Seconds without progress after which a process says that it should be restarted; told within 30 s, that is, by a
prober that asks every ten."""
OUTSIDE_LIMIT = 300.0
"""The same while it waits for the broker or the database, whose time-outs, tried again and again, end that before."""


class Turns:
    """Of one loop, told by its thread and asked by any other."""

    def __init__(self, limit: float = STILL_LIMIT, outside_limit: float = OUTSIDE_LIMIT) -> None:
        self._limit = limit
        self._outside_limit = outside_limit
        self._turned = time.monotonic()
        self._outside_since: float | None = None

    def turned(self) -> None:
        """The loop begins another turn."""
        self._turned = time.monotonic()

    @contextmanager
    def outside(self) -> Iterator[None]:
        """It waits for the broker or the database: an outage of those is no reason to start a process again."""
        self._outside_since = time.monotonic()
        try:
            yield
        finally:
            self._turned = time.monotonic()
            self._outside_since = None

    @property
    def seconds_outside(self) -> float | None:
        """How long it has been waiting for the broker or the database; None when it does not."""
        since = self._outside_since
        return None if since is None else time.monotonic() - since

    @property
    def seconds_still(self) -> float | None:
        """How long it has made no progress, if that is too long."""
        seconds_outside = self.seconds_outside
        if seconds_outside is not None:
            return seconds_outside if seconds_outside > self._outside_limit else None
        seconds = time.monotonic() - self._turned
        return seconds if seconds > self._limit else None
