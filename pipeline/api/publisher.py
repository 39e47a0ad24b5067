"""Publishing after a commit: one connection per API process, and a broker's outage is nobody's error."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from threading import Lock

from structlog import get_logger

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Depth, Transport, open_transport
from schemas.messages import Message

PAUSE = 1.0
"""Seconds without another try after one failed, so that requests do not queue for a broker that is down."""

_log = get_logger("publisher")


class Publisher:
    """A transport for many threads. What it can't publish is dropped: the rows are due, so reconcile finds them."""

    def __init__(self, url: str, instance: str, *, pause: float = PAUSE) -> None:
        self._url = url
        self._instance = instance
        self._pause = pause
        self._lock = Lock()
        self._transport: Transport | None = None
        self._lost_at: float | None = None

    def publish(self, messages: Sequence[Message]) -> None:
        """Publish what a committed transaction returned; never raises for a broker that is down."""
        if not messages:
            return
        with self._lock:
            if self._lost_at is not None and time.monotonic() - self._lost_at < self._pause:
                return
            try:
                self._opened().publish(messages)
            except BrokerUnavailable as error:
                self._lose(error)
                return
            if self._lost_at is not None:
                self._lost_at = None
                _log.info("broker_found")

    def depth(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """How full each queue is. Raises BrokerUnavailable."""
        with self._lock:
            return self._opened().depth(queues)

    def close(self) -> None:
        """Give the connection up. May be called twice."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
                self._transport = None

    def _opened(self) -> Transport:
        if self._transport is None:
            self._transport = open_transport(self._url, self._instance)
        return self._transport

    def _lose(self, error: BrokerUnavailable) -> None:
        if self._lost_at is None:
            _log.warning("broker_lost", error=str(error), consequence="reconcile will publish what is due")
        self._lost_at = time.monotonic()
