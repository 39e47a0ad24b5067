"""Our rules: the function that Penstock plans with itself, told what our database would tell it, and obeyed.

What the shell around it does is done here: low cycles and holds are carried over, idle cycles counted, a queue that
refuses or whose pilots die before they come up backs off as in `executors/pilots/queue_round.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median

from executors.pilots.planning.decide import PlanRules, plan
from executors.pilots.queue_round import BACKOFF
from pipeline.store.provisioning_rows import (
    RECENT,
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
from pipeline.store.queue_histories import WINDOW
from schemas.requirements import Requirement
from schemas.sites import PilotCaps, SiteQueueEntry
from schemas.states import PilotState
from tests.simulation.pilot import Pilot, Stage
from tests.simulation.rules import Decision, Rules, View
from tests.simulation.world import Case, Group, Queue

RULES = PlanRules()
"""As released: its cycle is that of the trigger `provisioning`, its margin the setting `pilot_margin`."""
IDLE_LIMIT = 1_200.0
"""Setting `pilot_idle_limit`."""
MEMORY = 2_000
"""MiB for each core, of pilots and of jobs: cores are what is scarce."""
DISK = 10_000
"""MiB for each core of a pilot, and for a job."""
CALM = 3
"""While jobs wait and nothing is too much, each third cycle is planned, which only makes us slower to ask for more: it
saves two thirds of the time that the simulation takes."""
_BEGINNING = datetime(2026, 1, 5, tzinfo=UTC)
_VO = 1
_STATES = {
    Stage.REQUESTED: PilotState.REQUESTED,
    Stage.PENDING: PilotState.QUEUED,
    Stage.STARTING: PilotState.QUEUED,  # until it enrols
    Stage.ACTIVE: PilotState.RUNNING,
    Stage.DRAINING: PilotState.DRAINING,
}


@dataclass(slots=True)
class _Trouble:
    """What a queue's rounds remember."""

    failures: int = 0
    until: float = 0.0


class Penstock(Rules):
    """One VO, one site queue for each queue."""

    name = "Penstock"
    period = RULES.cycle
    margin = RULES.margin
    idle_limit = tail_limit = IDLE_LIMIT
    keeps_requested = True

    def __init__(self, case: Case) -> None:
        self._queues = case.queues
        self._demand = {group: _requirement(group) for group in case.groups}
        self._rooms = [_room(queue) for queue in case.queues]
        self._caps = (Cap("everywhere", PilotCaps(max_pilots=case.max_pilots)),)
        self._past: dict[Place, Past] = {}
        self._idle: dict[int, int] = {}
        self._cycles = -1
        self._is_low = False
        self._history = [_PastPilots() for _ in case.queues]
        self._trouble = [_Trouble() for _ in case.queues]

    def decide(self, view: View) -> Decision:
        """One cycle of the real plan."""
        self._cycles += 1
        if self._cycles % CALM and self._is_calm(view):
            return Decision()
        made = plan(self._situation(view), RULES)
        by_id = {pilot.id: pilot for pilot in view.pilots}
        submit: dict[int, int] = {}
        remove: list[Pilot] = []
        drain: list[Pilot] = []
        self._is_low = False
        for order in made.orders:
            self._is_low |= order.low_cycles > 0
            self._past[order.room.place] = Past(order.low_cycles, order.hold_until)
            if order.request:
                submit[order.room.site_queue_id] = order.request
            remove += (by_id[i] for i in order.remove)
            drain += (by_id[i] for i in order.drain)
        return Decision(submit, remove, drain, tuple(self._requested(view)))

    def _is_calm(self, view: View) -> bool:
        """Jobs wait, nobody stands idle, and at the last plan there was nowhere too much."""
        return (
            view.is_sure
            and bool(view.waiting)
            and not self._is_low
            and not any(pilot.is_idle or pilot.stage is Stage.REQUESTED for pilot in view.pilots)
        )

    def _requested(self, view: View) -> Iterator[Pilot]:
        """What waits for its queue to be tried again."""
        for pilot in view.pilots:
            if pilot.stage is Stage.REQUESTED and self._trouble[pilot.queue.index].until <= view.now:
                yield pilot

    def _situation(self, view: View) -> Situation:
        demand = tuple(
            Demand(_VO, self._demand[group], count)
            for group, count in sorted(view.waiting.items(), key=lambda one: one[0].index)
        )
        self._idle = {pilot.id: self._idle.get(pilot.id, 0) + 1 for pilot in view.pilots if pilot.is_idle}
        for past in self._history:
            past.forget(view.now)
        return Situation(
            now=_BEGINNING + timedelta(seconds=view.now),
            reading=DemandReading(demand, view.is_sure),
            rooms=tuple(self._rooms_at(view.now)),
            pilots=tuple(self._live(pilot, view.now) for pilot in view.pilots),
            past=self._past,
            history={queue.index: self._history[queue.index].history(view.now) for queue in self._queues},
            caps=self._caps,
        )

    def _rooms_at(self, now: float) -> Iterator[Room]:
        for room, trouble in zip(self._rooms, self._trouble, strict=True):
            if trouble.until > now:
                yield Room(room.site_queue_id, room.site_id, room.site, room.vo_id, room.entry, closed="backs off")
            else:
                yield room

    def _live(self, pilot: Pilot, now: float) -> LivePilot:
        index, stage, age = pilot.queue.index, pilot.stage, now - pilot.submitted
        state = _STATES[stage]
        if not pilot.came_up:
            batch_id = None if stage is Stage.REQUESTED else str(pilot.id)
            return LivePilot(pilot.id, index, _VO, state, leaves=False, age=age, batch_id=batch_id)
        assert pilot.started is not None
        free = pilot.free
        return LivePilot(
            id=pilot.id,
            site_queue_id=index,
            vo_id=_VO,
            state=state,
            leaves=stage is Stage.DRAINING,
            age=age,
            batch_id=str(pilot.id),
            cores=free,
            memory=free * MEMORY,
            disk=free * DISK,
            lasts=pilot.ends - now,
            jobs=len(pilot.jobs),
            recent_jobs=sum([now - begun <= RECENT for begun in pilot.begun.values()]),
            up=now - pilot.started,
            idle_cycles=self._idle.get(pilot.id, 0),
        )

    def submission_failed(self, queue: int, now: float) -> None:
        """What was requested stays so in our database, and is submitted when the queue is tried again."""
        self._back_off(queue, now)

    def _back_off(self, queue: int, now: float) -> None:
        trouble = self._trouble[queue]
        trouble.failures += 1
        trouble.until = now + BACKOFF.ceiling(trouble.failures)

    def requested(self, pilot: Pilot) -> None:
        """A pilot is wanted, and submitted or refused."""
        self._history[pilot.queue.index].requested(pilot)

    def came_up(self, pilot: Pilot, now: float) -> None:
        """It enrols; until then it was as good as waiting."""
        self._trouble[pilot.queue.index].failures = 0
        self._history[pilot.queue.index].started(pilot, now)

    def ended(self, pilot: Pilot, now: float, *, by_us: bool) -> None:
        """One that ends before it has come up counts against its queue, unless we wanted it to."""
        self._history[pilot.queue.index].ended(pilot, now, is_ours=by_us)
        if not by_us and not pilot.came_up:
            self._back_off(pilot.queue.index, now)


class _PastPilots:
    """The pilots of one queue that were requested of late."""

    def __init__(self) -> None:
        self._pilots: deque[Pilot] = deque()
        self._started: dict[int, float] = {}
        self._stillborn: set[int] = set()
        self._made: History | None = None
        self._moved: float | None = None
        self._vain = 0.0

    def requested(self, pilot: Pilot) -> None:
        """Requested and submitted at once."""
        self._pilots.append(pilot)
        self._made = None

    def started(self, pilot: Pilot, now: float) -> None:
        """Came up so long after its request."""
        self._started[pilot.id] = now - pilot.submitted
        self._moved, self._vain = now, 0.0
        self._made = None

    def ended(self, pilot: Pilot, now: float, *, is_ours: bool) -> None:
        """Died, or was taken back."""
        if pilot.came_up:
            self._moved, self._vain = now, 0.0
        elif is_ours:
            self._vain = max(self._vain, now - max(pilot.submitted, self._moved or 0.0))
        else:
            self._stillborn.add(pilot.id)
        self._made = None

    def forget(self, now: float) -> None:
        """What is too old."""
        while self._pilots and now - self._pilots[0].submitted > WINDOW:
            old = self._pilots.popleft()
            self._started.pop(old.id, None)
            self._stillborn.discard(old.id)
            self._made = None

    def history(self, now: float) -> History:
        """As the store counts it."""
        if self._made is None:
            known = {pilot.id for pilot in self._pilots}
            times = [seconds for i, seconds in self._started.items() if i in known]
            stillborn = len(self._stillborn & known)
            self._made = History(len(known), len(times), stillborn, median(times) if times else None)
        return replace(self._made, moved=None if self._moved is None else now - self._moved, vain=self._vain)


def _requirement(group: Group) -> Requirement:
    tags = (group.tag,) if group.tag else ()
    return Requirement(
        cores=group.cores, memory=MEMORY * group.cores, disk=DISK, wall_time=int(group.wall_time), tags=tags
    )


def _room(queue: Queue) -> Room:
    entry = SiteQueueEntry(
        name=f"q{queue.index}",
        cores=queue.cores,
        memory=MEMORY * queue.cores,
        disk=DISK * queue.cores,
        wall_time=int(queue.wall_time),
        tags=tuple(sorted(queue.tags)),
        max_pilots=queue.max_pilots,
        max_pending_pilots=queue.max_pending,
    )
    return Room(queue.index, queue.index, queue.site, _VO, entry)
