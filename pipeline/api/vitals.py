"""Whether the API's worker threads answer: its loop turns as long as it says anything at all."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from threading import Event

from anyio import to_thread

from pipeline.api.question import Question
from pipeline.errors import DatabaseUnavailable
from pipeline.store.database import Database
from pipeline.turns import STILL_LIMIT

INTERVAL = 1.0
"""Seconds between an answer and the next question."""
PATIENCE = 2.0
"""Seconds within which the database is to answer who asks whether this process is ready."""


class Vitals:
    """Belongs to one event loop: it asks the threads that answer requests, waiting its turn among those."""

    def __init__(self) -> None:
        self._answered: float | None = None
        self._database: Question[datetime] = Question()

    async def watch(self, stopping: Event) -> None:
        """Ask until the process stops."""
        self._answered = time.monotonic()
        while not stopping.is_set():
            await to_thread.run_sync(_answer)
            self._answered = time.monotonic()
            await asyncio.sleep(INTERVAL)

    async def ask(self, database: Database) -> None:
        """See that the database answers. Raises DatabaseUnavailable, within 2 s."""
        try:
            await self._database.answer(database.now, PATIENCE)
        except TimeoutError as error:
            raise DatabaseUnavailable(f"{database.safe_url()} has not answered within {PATIENCE:g} s") from error

    def stuck(self, database: Database, limit: float = STILL_LIMIT) -> str | None:
        """Why no requests are answered; None when they are, or when it is the database that keeps the threads.

        For the loop's thread alone.
        """
        silent = 0.0 if self._answered is None else time.monotonic() - self._answered
        threads = int(to_thread.current_default_thread_limiter().total_tokens)
        if silent <= limit or 2 * len(database.asking) >= threads:
            return None
        return f"none of {threads} worker threads has been free for {silent:.0f} s"


def _answer() -> None:
    """What a thread does that is asked."""
