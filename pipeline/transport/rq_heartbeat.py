"""The heartbeat of a consumer on Redis: while it lasts, nobody takes the consumer's messages over."""

from __future__ import annotations

import threading
import time

from redis import Redis
from redis.exceptions import RedisError

_PATIENCE = 1.0


class Heartbeat:
    """Refreshes one expiring key from a daemon thread; also knows when the silence of others may be judged."""

    def __init__(self, client: Redis, key: str, life: float) -> None:
        """`life` is how long the key lasts, in seconds; it is refreshed five times as often."""
        self._client = client
        self._key = key
        self._life_ms = max(1, round(life * 1000))
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.interval = life / 5
        self.judging_from = 0.0
        """The monotonic time before which a missing heartbeat of somebody else says nothing."""
        self.note_outage()

    @property
    def life_ms(self) -> int:
        """How long the key lasts, in milliseconds."""
        return self._life_ms

    def note_outage(self) -> None:
        """The broker may have been away: its keys expired all together, so give everybody time to report."""
        self.judging_from = time.monotonic() + 2 * self.interval

    def start(self) -> None:
        """Begin to beat, unless it beats already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="penstock-heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Beat no more; the key expires by itself. May be called twice, and from a finalizer."""
        self._stopped.set()

    def join(self) -> None:
        """Wait until the thread has ended, after `stop`; not for ever, since a frozen broker may hold it up."""
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    def _beat(self) -> None:
        while not self._stopped.wait(self.interval):
            try:
                self._client.set(self._key, 1, px=self._life_ms)
            except RedisError:
                # Whoever uses the transport meets the same error and reports it.
                self.note_outage()
