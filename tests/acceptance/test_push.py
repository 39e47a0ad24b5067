"""Jobs are pushed: a waiting pilot is answered when it is assigned some, not when its wait ends."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from pipeline.store import access
from pipeline.store.tables import slots
from tests import building
from tests.api_server import RunningApi, running_api
from tests.pilot_rows import match
from tests.submitting import all_jobs, submit, user
from tests.waiting import best_of, eventually

OFFER = {"cores": 100, "memory": 1_000_000, "disk": 1_000_000, "time_left": 3600.0, "wait": 50}
PILOTS = 12
TRIES = 10
BOUND = 0.2
"""Seconds from the commit to the answer."""


def ask(api: RunningApi, token: str) -> tuple[float, Any]:
    """When the answer to an offer came, and what it was."""
    with api.http(token) as http:
        reply = http.post("/v1/pilots/self/offer", json=OFFER, timeout=60)
    return time.monotonic(), reply.json()


@pytest.mark.alone
def test_a_waiting_pilot_hears_of_its_job_within_a_fifth_of_a_second(tmp_path: Path) -> None:
    with running_api(tmp_path) as api, ThreadPoolExecutor(PILOTS) as threads:
        site = building.site(api.database)
        tokens = [f"pil_{number}" for number in range(PILOTS)]
        ids = [building.pilot(api.database, site, token_digest=access.digest(token)) for token in tokens]
        waiting = [threads.submit(ask, api, token) for token in tokens]
        offered = select(slots.c.pilot_id)
        eventually(lambda: len(api.database.read(lambda tx: tx.rows(offered))) == PILOTS)
        order = iter(range(PILOTS))

        def seconds() -> float:
            number = next(order)
            submitted = submit(api.database, {"name": "s"}, owner=user(api.database))
            match(api.database, all_jobs(api.database, submitted.campaign_id), site, ids[number])
            mine = update(slots).where(slots.c.pilot_id == ids[number])
            api.database.transact(lambda tx: tx.run(mine.values(state="served", wake_at=None)))
            committed = time.monotonic()
            answered, reply = waiting[number].result(20)
            assert len(reply["assignments"]) == 1
            return answered - committed

        best_of(TRIES, seconds, bound=BOUND)
        assert not waiting[-1].done()
        api.server.stop()
