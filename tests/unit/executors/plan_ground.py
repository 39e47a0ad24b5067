"""Values that plans of pilots are tried with: rooms, demand, live pilots, and what a plan makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from executors.pilots.planning.decide import PlaceOrder, Plan, plan
from pipeline.store.match_rows import LimitRow
from pipeline.store.provisioning_rows import (
    Cap,
    Demand,
    DemandReading,
    History,
    LivePilot,
    Past,
    Place,
    Room,
    Situation,
)
from schemas.requirements import Requirement
from schemas.sites import PilotCaps, SiteQueueEntry
from schemas.states import PilotState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN = History(submitted=100, started=100, queue_time=60.0)
"""Of a queue that starts all that it is given, within a minute."""


def room(queue: int, vo: int = 1, **entry: Any) -> Room:
    """A queue for pilots of one core, 8 GiB and a day, ten at the most; `closed` says why nothing new may go there."""
    closed, site = entry.pop("closed", ""), entry.pop("site", 1)
    wanted = {"name": f"q{queue}", "cores": 1, "memory": 8192, "max_pilots": 10, "max_pending_pilots": 10, **entry}
    return Room(queue, site, "ST"[site - 1], vo, SiteQueueEntry.model_validate(wanted), closed)


def demand(jobs: int, vo: int = 1, **wants: Any) -> Demand:
    """So many waiting jobs."""
    return Demand(vo, Requirement.model_validate(wants), jobs)


def pilot(number: int, queue: int, vo: int = 1, *, leaves: bool = False, **values: Any) -> LivePilot:
    """A pilot that waits in its queue, for ten seconds now."""
    return LivePilot(number, queue, vo, values.pop("state", PilotState.QUEUED), leaves, **{"age": 10.0, **values})


def running(number: int, queue: int, vo: int = 1, *, leaves: bool = False, **values: Any) -> LivePilot:
    """A pilot that is up: without a job it is idle for the second cycle; `cores` and the like are what is free."""
    idle_cycles = 0 if values.get("jobs") else 2
    free = {"cores": 1, "memory": 8192, "disk": 10_240, "lasts": 80_000.0, "up": 4_000.0, "age": 4_100.0}
    values = {**free, "idle_cycles": idle_cycles, "state": PilotState.RUNNING, **values}
    return pilot(number, queue, vo, leaves=leaves, **values)


def busy(number: int, queue: int, vo: int = 1, **values: Any) -> LivePilot:
    """A pilot that is full."""
    return running(number, queue, vo, **{"cores": 0, "jobs": 1, **values})


def situation(
    rooms: Sequence[Room],
    wants: Iterable[Demand] = (),
    live: Iterable[LivePilot] = (),
    *,
    is_sure: bool = True,
    low: int = 0,
    history: Mapping[int, History] | None = None,
    caps: Iterable[Cap] = (),
    limits: Iterable[LimitRow] = (),
) -> Situation:
    """All queues are well known, unless `history` says otherwise; all places had `low` low readings in a row."""
    past: dict[Place, Past] = {one.place: Past(low) for one in rooms} if low else {}
    known = {one.site_queue_id: KNOWN for one in rooms} if history is None else history
    reading = DemandReading(tuple(wants), is_sure)
    return Situation(NOW, reading, tuple(rooms), tuple(live), past, known, tuple(caps), tuple(limits))


def cap(label: str = "a limit", *, queues: Iterable[int] | None = None, vo: int | None = None, **limits: int) -> Cap:
    """One limit."""
    return Cap(label, PilotCaps.model_validate(limits), None if queues is None else frozenset(queues), vo)


def requested(*args: Any, **more: Any) -> dict[Place, int]:
    """New pilots by place, of a situation."""
    return requests(plan(situation(*args, **more)))


def requests(made: Plan) -> dict[Place, int]:
    """New pilots by place."""
    return {order.room.place: order.request for order in made.orders if order.request}


def only(*args: Any, **more: Any) -> PlaceOrder:
    """The order of the only place of a situation."""
    (order,) = plan(situation(*args, **more)).orders
    return order
