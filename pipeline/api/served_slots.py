"""Pilots that wait for jobs: one indexed poll per API process tells all of them, and only while somebody waits."""

from __future__ import annotations

import asyncio
from threading import Event

from anyio import to_thread
from structlog import get_logger

from pipeline.errors import DatabaseUnavailable
from pipeline.store.database import Database
from pipeline.store.offers import served

PERIOD = 0.05
"""Seconds between two looks. A look costs 0.6 ms of this process's time; pilots hear of jobs half of it later."""

_log = get_logger("api")


class ServedSlots:
    """Belongs to one event loop. A poll reads by state, not by ids: commits leave gaps, and lists grow."""

    def __init__(self, database: Database, stopping: Event, *, period: float = PERIOD) -> None:
        self._database = database
        self._stopping = stopping
        self._period = period
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._poll: asyncio.Task[None] | None = None

    async def wait(self, pilot_id: int, seconds: float) -> bool:
        """Wait until jobs were assigned to the pilot or the process stops, up to so many seconds; whether one came."""
        told = asyncio.Event()
        self._waiting.setdefault(pilot_id, set()).add(told)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                await told.wait()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            waiting = self._waiting[pilot_id]
            waiting.discard(told)
            if not waiting:
                del self._waiting[pilot_id]

    async def _look(self) -> None:
        while self._waiting:
            try:
                found = await to_thread.run_sync(lambda: self._database.read(served))
            except DatabaseUnavailable as error:
                _log.warning("served_slots_unknown", error=str(error))
                found = frozenset()
            if self._stopping.is_set():
                found = frozenset(self._waiting)
            for pilot_id in found & set(self._waiting):
                for told in self._waiting[pilot_id]:
                    told.set()
            await asyncio.sleep(self._period)
