"""A pilot that waits for jobs does not hold up the API's end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Event

from pipeline.api.served_slots import ServedSlots
from pipeline.store.database import Database
from pipeline.store.tables import metadata


def test_waiting_pilots_are_answered_as_soon_as_the_process_stops(tmp_path: Path) -> None:
    database, stopping = Database(f"sqlite:///{tmp_path / 'api.db'}"), Event()
    metadata.create_all(database.engine)

    async def wait_and_stop() -> tuple[bool, bool]:
        slots = ServedSlots(database, stopping)
        waiting = asyncio.gather(slots.wait(1, 60), slots.wait(2, 60))
        await asyncio.sleep(0)
        stopping.set()
        first, second = await asyncio.wait_for(waiting, 20)
        return first, second

    assert asyncio.run(wait_and_stop()) == (False, False)
    database.close()
