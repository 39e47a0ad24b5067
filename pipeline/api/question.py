"""What is asked of something that may hang: one thread waits for it, and nobody who asks waits for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")


class Question(Generic[T]):
    """Belongs to one event loop.

    The thread is its own: requests that wait for the same thing may have taken all others. While one waits, those who
    ask later wait for the same answer.
    """

    def __init__(self) -> None:
        self._asked: asyncio.Task[T] | None = None
        self._thread = CapacityLimiter(1)

    async def answer(self, ask: Callable[[], T], patience: float) -> T:
        """What `ask` returns or raises. Raises TimeoutError after `patience` seconds; the answer may come later."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(to_thread.run_sync(ask, limiter=self._thread))
            self._asked.add_done_callback(_heed)
        done, _ = await asyncio.wait({self._asked}, timeout=patience)
        if not done:
            raise TimeoutError(f"no answer within {patience:g} s")
        return self._asked.result()


def _heed(asked: asyncio.Task[T]) -> None:
    """Its error is not lost, should nobody ask again."""
    if not asked.cancelled():
        asked.exception()
