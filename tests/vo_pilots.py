"""Site queues and pilots of the VO that a test of the API has for itself."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from sqlalchemy import select, update

from pipeline.store.database import Database, Transaction
from pipeline.store.tables import pilots, site_queues
from schemas.states import PilotState
from tests import building
from tests.api_server import RunningApi

PENDING = ("requested", "submitted", "queued", "held")


def place(api: RunningApi, **queue: Any) -> building.Site:
    """A site of the test's own, whose queue is for its VO."""
    given = {"vos": [api.vo], "max_pilots": 100, "max_pending_pilots": 100, **queue}
    return building.site(api.database, f"S-{uuid4().hex[:8]}", **given)


def pilot(api: RunningApi, at: building.Site, state: str = "running", **columns: Any) -> int:
    """A pilot of the test's VO; one that has not begun was never seen."""
    began = {} if state not in PENDING else {"started_at": None, "last_seen": None, "ends_at": None}
    return building.pilot(api.database, at, vo=api.vo, **{"state": PilotState(state), **began, **columns})


def rows(database: Database, ids: list[int]) -> dict[int, Any]:
    """The rows of pilots by id."""
    found = database.read(lambda tx: tx.rows(select(pilots).where(pilots.c.id.in_(ids))))
    return {row.id: row for row in found}


def store_output(api: RunningApi, pilot_id: int, stdout: str, stderr: str) -> None:
    """A round of the queue has fetched what a pilot wrote."""
    api.services.sandboxes.put_pilot_output(api.vo, pilot_id, stdout, stderr)
    mine = update(pilots).where(pilots.c.id == pilot_id)
    api.database.transact(lambda tx: tx.run(mine.values(output_at=tx.now, output_wanted_at=None)))


def set_queue(api: RunningApi, at: building.Site, **columns: Any) -> None:
    """Set columns of a queue; one with a reason backs off."""
    mine = update(site_queues).where(site_queues.c.id == at.queue_id)

    def work(tx: Transaction) -> None:
        until = {"backoff_until": tx.after(600)} if "reason" in columns else {}
        tx.run(mine.values(failures=0, **until, **columns))

    api.database.transact(work)


def room(at: building.Site) -> dict[str, str]:
    """An order's place."""
    return {"site": at.name, "queue": "local"}
