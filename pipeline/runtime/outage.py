"""Something outside that is down: said once, tried again with back-off, said once when it is back."""

from __future__ import annotations

import random
import time

from structlog import get_logger

from schemas.outcomes import Backoff

_CHANCE = random.SystemRandom()
_BACKOFF = Backoff(base=0.2, factor=2, cap=5.0)

_log = get_logger("runtime")


class Outage:
    """Whether `what` (the broker, the database) can be used, as one thread sees it.

    `queue` is whose connection it is: a queue of a consumer, which has one for each, or `api`, `triggers`. So a
    process says once per connection that it lost the broker, and once that it is back.
    """

    def __init__(self, what: str, queue: str, backoff: Backoff = _BACKOFF) -> None:
        self._what = what
        self._queue = queue
        self._backoff = backoff
        self._failures = 0
        self._since = 0.0
        self._until = 0.0

    @property
    def lasts(self) -> bool:
        """Whether it failed when it was used last."""
        return self._failures > 0

    @property
    def may_try(self) -> bool:
        """Whether it is up, or the back-off is over."""
        return time.monotonic() >= self._until

    def lost(self, error: Exception) -> bool:
        """It failed; whether this is the beginning of the outage."""
        self._failures += 1
        if self._failures == 1:
            self._since = time.monotonic()
            _log.warning(f"{self._what}_lost", queue=self._queue, error=str(error))
        delay = self._backoff.delay(self._failures, _CHANCE.uniform(0.5, 1))
        self._until = time.monotonic() + delay
        return self._failures == 1

    def back(self) -> None:
        """It answered."""
        if self._failures:
            _log.info(f"{self._what}_back", queue=self._queue, seconds=round(time.monotonic() - self._since, 1))
        self._failures = 0
        self._until = 0.0
