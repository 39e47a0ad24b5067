"""A thread that calls the broker, so that no request waits for one that is away or frozen."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from structlog import get_logger

from pipeline.errors import BrokerUnavailable
from pipeline.metrics import BROKER_LOST
from pipeline.runtime.outage import Outage
from pipeline.transport.port import Transport, open_transport
from schemas.outcomes import Backoff

T = TypeVar("T")

LOOK = 5.0
"""Seconds without a call after which the thread looks by itself whether the broker answers."""
LOOK_AGAIN = 1.0
"""The same during an outage, where the back-off allows it."""
_MOST_WAITING = 1_000
_CLOSE_WAIT = 0.3
"""Seconds that `close` waits for a call that hangs."""

_log = get_logger("api")

_Call = tuple[Callable[[Transport], Any], Future[Any]]


class BrokerThread:
    """Owns a transport. Says an outage once, looks by itself with back-off whether it is over, and says that too.

    It is over when the call that failed first succeeds, for which that call is made again: a broker that is full
    takes no messages and answers everything else. During an outage a call fails at once with BrokerUnavailable,
    except the few that try again. Raises BadSettings for a URL that no transport serves.
    """

    def __init__(self, url: str, instance: str, backoff: Backoff) -> None:
        self._transport = open_transport(url, instance)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._outage = Outage("broker", "api", backoff)
        self._failed: Callable[[Transport], Any] | None = None
        """The call that began the outage."""
        self._busy_since: float | None = None
        self._thread = Thread(target=self._run, name="broker", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Transport], T]) -> Future[T]:
        """Call `work` in the thread, in order. The future raises BrokerUnavailable, at once where that is known."""
        future: Future[T] = Future()
        if not self._outage.may_try or self._calls.qsize() >= _MOST_WAITING:
            future.set_exception(BrokerUnavailable("the broker can't be reached; it is tried again within seconds"))
            return future
        self._calls.put((work, future))
        return future

    @property
    def away(self) -> bool:
        """Whether the broker failed when it was used last."""
        return self._outage.lasts

    def hangs(self, seconds: float) -> bool:
        """Whether a call has been waiting for the broker for longer than this."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > seconds

    def close(self) -> None:
        """Give the connection up; a call that hangs is left to itself. May be called twice."""
        self._calls.put(None)
        self._thread.join(_CLOSE_WAIT)

    def _run(self) -> None:
        while True:
            try:
                call = self._calls.get(timeout=LOOK_AGAIN if self.away else LOOK)
            except Empty:
                call = (_look, Future())
            if call is None:
                break
            self._answer(*call)
            if self._failed is not None and self._outage.may_try:
                self._answer(self._failed, Future())
        try:
            self._transport.close()
        except BrokerUnavailable as error:
            self._lost(error)

    def _answer(self, work: Callable[[Transport], T], future: Future[T]) -> None:
        if not self._outage.may_try:
            future.set_exception(BrokerUnavailable("the broker was lost; it is tried again within seconds"))
            return
        self._busy_since = time.monotonic()
        try:
            result = work(self._transport)
        except BrokerUnavailable as error:
            self._failed = self._failed or work
            self._lost(error)
            future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: it is the caller's error, and the next call's turn
            _log.exception("broker_call_failed")  # the caller may wait for it no longer
            self._settled(work)
            future.set_exception(error)
        else:
            if self._settled(work):
                self._outage.back()
            future.set_result(result)
        finally:
            self._busy_since = None

    def _settled(self, work: Callable[[Transport], Any]) -> bool:
        """Whether no failed call is left to be made again, now that this one was answered."""
        if self._failed is work:
            self._failed = None
        return self._failed is None

    def _lost(self, error: BrokerUnavailable) -> None:
        if self._outage.lost(error):
            BROKER_LOST.labels("api").inc()


def _look(transport: Transport) -> None:
    transport.depth(["upkeep"])
