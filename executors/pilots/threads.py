"""Threads that wait for other people's servers: many side by side, and one that never answers delays nobody.

Each piece of work has a key and a thread of its own. A batch waits for its pieces, but not much longer than the others
took: what is slower goes on alone. Work that does not answer within its own time is given up: its thread hangs until
the server lets go of it, and the same key is not begun again meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from structlog import get_logger

T = TypeVar("T")

_STACK = 2 << 20
"""Bytes: a worker's memory limit counts the stacks of its threads, which are 8 MiB by default."""
_log = get_logger("pilots")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many threads there are, and for how long they are waited for. Seconds."""

    working: int = 256
    """Threads that work at a time."""
    hanging: int = 64
    """Threads that were given up, beside those. More of them take the places of working ones."""
    answer: float = 120.0
    """Until work is given up."""
    patience: float = 10.0
    """That a batch waits at the least; twice as long as its slowest other piece took, if that is more."""
    longest: float = 60.0
    """That it waits at the most."""


@dataclass(slots=True, eq=False)
class Piece(Generic[T]):
    """Work under way. Once it is over, which `took` says, there is one of `results`, or an `error`."""

    key: int
    work: Callable[[], T]
    given_up: Callable[[], None]
    began: float
    hangs: bool = False
    took: float | None = None
    results: list[T] = field(default_factory=list)
    error: Exception | None = None


class Threads(Generic[T]):
    """A process's threads for such work. Safe to share by threads."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._changed = threading.Condition()
        self._running: set[Piece[T]] = set()
        self._watching = False

    def idle(self, keys: set[int]) -> set[int]:
        """Those of the keys whose work is not under way."""
        with self._changed:
            return keys - {piece.key for piece in self._running}

    def free(self) -> int:
        """How many more pieces may begin now."""
        with self._changed:
            return self._free()

    def wait_for_room(self, began: float) -> bool:
        """Whether there is room now, or soon enough for a batch that began then (by the monotonic clock)."""
        left = began + self._bounds.longest - time.monotonic()
        with self._changed:
            return self._changed.wait_for(lambda: self._free() > 0, max(0.0, min(self._bounds.patience, left)))

    def begin(self, key: int, work: Callable[[], T], given_up: Callable[[], None]) -> Piece[T]:
        """Have it done; `given_up` is called, in another thread, if that takes too long. Raises nothing of its own."""
        piece = Piece(key, work, given_up, time.monotonic())
        with self._changed:
            if not self._watching:
                _start(self._watch, "pilots-watch")
                self._watching = True
            _start(lambda: self._do(piece), f"pilots-{key}")
            self._running.add(piece)
            self._changed.notify_all()
        return piece

    def wait(self, pieces: list[Piece[T]], began: float) -> None:
        """Until all are over, or those that are not take much longer than the others took. `began`: the batch."""
        with self._changed:
            while any(piece.took is None for piece in pieces):
                slowest = max((piece.took for piece in pieces if piece.took is not None), default=0.0)
                patience = min(max(self._bounds.patience, 2 * slowest), self._bounds.longest)
                left = began + patience - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _free(self) -> int:
        hanging = sum(piece.hangs for piece in self._running)
        return self._bounds.working - (len(self._running) - min(hanging, self._bounds.hanging))

    def _do(self, piece: Piece[T]) -> None:
        try:
            piece.results.append(piece.work())
        except Exception as error:  # noqa: BLE001 - the thread's boundary: whoever waits raises it again
            piece.error = error
        finally:
            with self._changed:
                piece.took = time.monotonic() - piece.began
                self._running.discard(piece)
                self._changed.notify_all()

    def _watch(self) -> None:
        """Give up what takes too long."""
        while True:
            with self._changed:
                late = [piece for piece in self._running if not piece.hangs and self._left(piece) <= 0]
                for piece in late:
                    piece.hangs = True
                if late:
                    self._changed.notify_all()
                else:
                    waited_for = [self._left(piece) for piece in self._running if not piece.hangs]
                    self._changed.wait(min(waited_for, default=None))
            for piece in late:
                try:
                    piece.given_up()
                except Exception:  # noqa: BLE001 - the thread's boundary: others are to be given up as well
                    _log.exception("work_not_given_up", key=piece.key)

    def _left(self, piece: Piece[T]) -> float:
        return piece.began + self._bounds.answer - time.monotonic()


def _start(work: Callable[[], None], name: str) -> None:
    """A thread that a process which ends does not wait for."""
    before = threading.stack_size(_STACK)
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    finally:
        threading.stack_size(before)
