"""The rounds of many site queues at once, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from functools import partial

import uuid_utils.compat
from structlog import get_logger

from executors.pilots.follow import Hearing
from executors.pilots.queue_round import Round, hearing
from executors.pilots.threads import Bounds, Piece, Threads
from pipeline.runtime.spec import Context
from pipeline.store import queue_pilots
from pipeline.store.database import Transaction
from pipeline.store.queue_pilots import LeasedQueue
from schemas.messages import Message

LEASE_MARGIN = 30.0
"""Seconds that a lease is longer than a round may take."""

_log = get_logger("pilots")


class Rounds:
    """A process's rounds. Safe to share by threads."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._threads: Threads[list[Message]] = Threads(self._bounds)
        self._lock = threading.Lock()
        self._under_way: list[Piece[list[Message]]] = []

    def carry_out(self, context: Context, site_queue_ids: Iterable[int]) -> list[Message]:
        """A round of each queue that nobody is at and that does not back off. The messages about jobs of pilots that
        have ended, those of earlier rounds included that went on alone. Raises DatabaseUnavailable."""
        began = time.monotonic()
        waiting = sorted(self._threads.idle(set(site_queue_ids)))
        pieces: list[Piece[list[Message]]] = []
        while waiting:
            if not self._threads.wait_for_room(began):
                _log.error("rounds_put_off", count=len(waiting), reason="every thread waits for a batch system")
                break
            room = self._threads.free()
            few, waiting = waiting[:room], waiting[room:]
            pieces += self._begin(context, few)
        self._threads.wait(pieces, began)
        return self._harvest()

    def _harvest(self) -> list[Message]:
        with self._lock:
            over = [piece for piece in self._under_way if piece.took is not None]
            self._under_way = [piece for piece in self._under_way if piece not in over]
        for piece in over:
            if piece.error is not None:
                raise piece.error
        return [message for piece in over for messages in piece.results for message in messages]

    def _begin(self, context: Context, site_queue_ids: Iterable[int]) -> list[Piece[list[Message]]]:
        owner = uuid_utils.compat.uuid7().hex
        seconds = self._bounds.answer + LEASE_MARGIN

        def work(tx: Transaction) -> tuple[list[LeasedQueue], Hearing]:
            return queue_pilots.lease(tx, site_queue_ids, owner, seconds), hearing(tx, context)

        queues, heard = context.database.transact(work)
        rounds = [Round(context, queue, heard) for queue in queues]
        with self._lock:
            begun = [
                self._threads.begin(one.queue.id, one.carry_out, partial(one.give_up, self._bounds.answer))
                for one in rounds
            ]
            self._under_way += begun
        return begun
