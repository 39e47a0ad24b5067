"""Pilots that wait for jobs: one indexed poll per API process tells all of them, and only while somebody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from threading import Event

from anyio import CapacityLimiter, to_thread
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
        self._waiting: dict[int, set[asyncio.Future[bool]]] = {}
        self._poll: asyncio.Task[None] | None = None
        self._thread = CapacityLimiter(1)
        """Its own: requests may have taken all others, and the news should not queue behind them."""

    async def wait(self, pilot_id: int, seconds: float) -> bool:
        """Wait until jobs were assigned to the pilot or the process stops, up to so many seconds; whether one came."""
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(pilot_id, set()).add(told)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                return await told
        except TimeoutError:
            return False
        finally:
            waiting = self._waiting[pilot_id]
            waiting.discard(told)
            if not waiting:
                del self._waiting[pilot_id]

    async def _look(self) -> None:
        while self._waiting:
            try:
                found = await to_thread.run_sync(lambda: self._database.read(served), limiter=self._thread)
            except DatabaseUnavailable as error:
                _log.warning("served_slots_unknown", error=str(error))
                found = frozenset()
            self._tell(found & self._waiting.keys(), came=True)
            if self._stopping.is_set():
                self._tell(self._waiting.keys() - found, came=False)
            await asyncio.sleep(self._period)

    def _tell(self, pilot_ids: Iterable[int], *, came: bool) -> None:
        for pilot_id in pilot_ids:
            for told in self._waiting[pilot_id]:
                if not told.done():
                    told.set_result(came)
