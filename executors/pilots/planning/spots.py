"""What is there at each place: pilots that run jobs, stand idle, are on their way, or hang in a queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from executors.pilots.planning.ceilings import Ceiling, Ceilings
from executors.pilots.planning.fitting import MEMORY, Fit, Kind, Want
from executors.pilots.planning.plans import PlanRules
from executors.pilots.planning.prospects import Prospect, coming, held_off, prospect
from executors.pilots.planning.roll import Roll
from pipeline.store.provisioning_rows import RECENT, History, Place, Room, Situation
from schemas.requirements import Specification


@dataclass(slots=True, eq=False)
class Spot:
    """One VO at one site queue, while a plan is made. Pilots that leave are not in its lists."""

    room: Room
    kind: Kind
    prospect: Prospect
    ceilings: tuple[Ceiling, ...]
    shared: tuple[Ceiling, ...]
    """Those of them that other queues are under, too."""
    roll: Roll
    hold_until: datetime | None = None
    """Dead, it gets no probe before."""
    coming: int = 0
    """Pending ones that can be counted on."""
    used_idle: set[int] = field(default_factory=set)
    """Idle ones that waiting jobs will take, by id."""
    used_pending: int = 0
    """Pending ones that waiting jobs need, counted on or not."""
    requested: int = 0

    @property
    def stale(self) -> int:
        """Pending ones that no job needs so far, though they may come, and before any that is requested now."""
        return len(self.roll.pending) - self.used_pending

    @property
    def nodes(self) -> int:
        """Pilots of one batch job."""
        return self.room.entry.nodes

    def fit(self, want: Want) -> Fit | None:
        """How such jobs fit fresh pilots here, whatever is free."""
        key = self.kind.key
        fits = want.fits
        if self.room.only_job_type is not None and self.room.only_job_type != want.job_type:
            return None
        return fits[key] if key in fits else MEMORY.learn(want, self.kind)

    def usable(self, want: Want) -> tuple[Specification, ...]:
        """The alternatives of such jobs that may run here."""
        fit = self.fit(want)
        return () if fit is None else fit.at(self.room.site)

    def left(self) -> int:
        """Pilots that may still be requested, in whole batch jobs."""
        left = min([ceiling.left for ceiling in self.ceilings])
        return left - left % self.nodes

    def request(self, count: int) -> None:
        """Note so many new pilots."""
        self.requested += count
        for ceiling in self.ceilings:
            ceiling.left -= count

    def began(self) -> float:
        """Cores per second on which jobs began here of late."""
        return self.width() * sum(pilot.recent_jobs for pilot in self.roll.busy) / RECENT

    def freed(self) -> float:
        """Cores per second that jobs leave to others here: the same, but for pilots that were new themselves."""
        recent = sum(pilot.recent_jobs for pilot in self.roll.busy if pilot.up > RECENT)
        return self.width() * recent / RECENT if recent else 0.0

    def width(self) -> float:
        """Cores of a job that runs here, on average; 0 where none does."""
        busy = self.roll.busy
        jobs = sum(pilot.jobs for pilot in busy)
        taken = self.room.entry.cores * len(busy) - sum(pilot.cores for pilot in busy)
        return max(taken / jobs, 1.0) if jobs else 0.0


def spots(now: Situation, rolls: Mapping[Place, Roll], rules: PlanRules) -> list[Spot]:
    """One for each room, in their order."""
    MEMORY.trim()
    by_queue: defaultdict[int, list[Roll]] = defaultdict(list)
    for (queue, _), roll in rolls.items():
        by_queue[queue].append(roll)
    ceilings = Ceilings(now.rooms, now.caps, rolls)
    records: dict[int, tuple[Prospect, Ceiling]] = {}
    found = []
    for room in now.rooms:
        queue = room.site_queue_id
        if queue not in records:
            records[queue] = _record(room, now.history.get(queue, _NOTHING), by_queue[queue], rules)
        ahead, ramp = records[queue]
        shared = ceilings.over(room)
        limits = [ceilings.queue(room), ramp, *shared]
        hold_until = held_off(ahead, now.past.get(room.place), now.now)
        if hold_until is not None:
            limits.append(Ceiling("its next probe", 0))
        roll = rolls.get(room.place) or Roll()
        spot = Spot(room, MEMORY.kind(room, rules.margin), ahead, tuple(limits), shared, roll, hold_until)
        spot.coming = coming(roll.pending, ahead, rules) if roll.pending else 0
        found.append(spot)
    return found


_NOTHING = History()


def _record(room: Room, history: History, rolls: Sequence[Roll], rules: PlanRules) -> tuple[Prospect, Ceiling]:
    """What the queue's record says of it, and how many more pilots it may get by that."""
    ahead = prospect(history, rolls, room.entry.nodes, rules)
    there = sum(roll.in_queue for roll in rolls)
    return ahead, Ceiling("its record", max(ahead.pending - there, 0))
