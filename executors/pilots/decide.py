"""The pure rules of provisioning: how many pilots where, and what a batch system's answer means for a pilot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from executors.pilots.port import BATCH_ENDED, BatchAnswer, BatchState
from pipeline.store.provisioning import Demand, LivePilot, Room, Situation
from pipeline.store.queue_pilots import BatchPilot
from schemas.requirements import Requirement, Resource, fits
from schemas.states import PILOT_ACTIVE, PILOT_PENDING, PilotState

STARTING = 60.0
"""Seconds between a pilot's enrolment and its first job: a job that needs its very last second would never fit."""
UNLISTED = 120.0
"""Seconds after its submission until a pilot that the batch system does not list counts as gone."""
Place = tuple[int, int]
"""A site queue and a VO."""


@dataclass(frozen=True, slots=True)
class Request:
    """So many new pilots of one VO for one site queue."""

    room: Room
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """New pilots, pending ones that are not wanted, and the places without demand (input of the next cycle)."""

    requests: tuple[Request, ...]
    removals: tuple[int, ...]
    idle: frozenset[Place]


def plan(now: Situation, margin: float) -> Plan:
    """What to request and what to remove. `margin`: seconds by which a pilot's life is shorter than its wall time.

    Waiting jobs that fit free slots or pending pilots want nothing; the rest is shared over the fitting queues in
    proportion to their free room in cores. Removal is slow on purpose: only pending pilots of a place that
    had no demand at all in two cycles running, or that is declared no more.
    """
    by_place = {(room.site_queue_id, room.vo_id): room for room in now.rooms}
    idle = frozenset(place for place, room in by_place.items() if not _wanted(room, now.demand, margin))
    left = _unserved(now, by_place, margin)
    ledger = _Ledger.of(now)
    for halved in (True, False):  # first no VO takes more than its part of a queue, then what is left goes to anybody
        for demand in left:
            demand.jobs = _share(demand, now.rooms, ledger, margin, halved=halved)
    requests = tuple(Request(by_place[place], count) for place, count in sorted(ledger.requested.items()) if count > 0)
    removals = tuple(
        pilot.id
        for pilot in now.pilots
        if pilot.state in PILOT_PENDING
        and not pilot.leaves
        and (_place(pilot) not in by_place or _place(pilot) in idle & now.idle)
    )
    return Plan(requests, removals, idle)


@dataclass(slots=True)
class _Left:
    """Waiting jobs for which there is no slot yet."""

    vo_id: int
    requirement: Requirement
    jobs: int


@dataclass(slots=True)
class _Ledger:
    """Pilots by queue: how many live, how many are pending, how many this plan adds."""

    live: Counter[int]
    pending: Counter[int]
    vos: Mapping[int, int]
    requested: Counter[Place] = field(default_factory=Counter)

    @classmethod
    def of(cls, now: Situation) -> _Ledger:
        live: Counter[int] = Counter(pilot.site_queue_id for pilot in now.pilots if pilot.state is not PilotState.LOST)
        pending = Counter(pilot.site_queue_id for pilot in now.pilots if pilot.state in PILOT_PENDING)
        wanting = {demand.vo_id for demand in now.demand}
        vos: Counter[int] = Counter(room.site_queue_id for room in now.rooms if room.vo_id in wanting)
        return cls(live, pending, vos)

    def room(self, place: Room, *, halved: bool) -> int:
        """Pilots that may still be requested; `halved`: of a queue that several VOs want, one VO's part alone."""
        queue = place.site_queue_id
        free = min(place.entry.max_pilots - self.live[queue], place.entry.max_pending_pilots - self.pending[queue])
        if not halved or self.vos[queue] < 2:
            return max(free, 0)
        mine = self.requested[queue, place.vo_id]
        part = -(-(free + sum(n for (q, _), n in self.requested.items() if q == queue)) // self.vos[queue])
        return max(min(free, part - mine), 0)

    def request(self, place: Room, count: int) -> None:
        """Note it."""
        self.live[place.site_queue_id] += count
        self.pending[place.site_queue_id] += count
        self.requested[place.site_queue_id, place.vo_id] += count


def _share(demand: _Left, rooms: Iterable[Room], ledger: _Ledger, margin: float, *, halved: bool) -> int:
    """Request pilots for the demand, in proportion to free cores; the jobs that are left without one."""
    fitting = [
        (ledger.room(room, halved=halved), room)
        for room in rooms
        if room.open and room.vo_id == demand.vo_id and fits(demand.requirement, fresh_pilot(room, margin))
    ]
    fitting.sort(key=lambda pair: (-pair[0] * pair[1].entry.cores, pair[1].site_queue_id))
    cores = sum(free * room.entry.cores for free, room in fitting)
    jobs = demand.jobs
    for free, room in fitting:
        if jobs <= 0 or free <= 0:
            break
        part = -(-jobs * free * room.entry.cores // cores)
        each = _jobs_at_once(demand.requirement, fresh_pilot(room, margin))
        count = min(free, -(-part // each))
        ledger.request(room, count)
        cores -= free * room.entry.cores
        jobs -= count * each
    return max(jobs, 0)


def _unserved(now: Situation, rooms: Mapping[Place, Room], margin: float) -> list[_Left]:
    """The demand less what fits free slots and pilots to come, the largest jobs first."""
    left = [_Left(demand.vo_id, demand.requirement, demand.jobs) for demand in now.demand]
    left.sort(key=lambda demand: -demand.requirement.cores)
    for pilot in now.pilots:
        room = rooms.get(_place(pilot))
        if room is None or pilot.leaves:
            continue
        free = _free(pilot, room, margin)
        for demand in left:
            if demand.vo_id == pilot.vo_id and fits(demand.requirement, free):
                taken = min(demand.jobs, _jobs_at_once(demand.requirement, free))
                demand.jobs -= taken
                free = _less(free, demand.requirement, taken)
    return [demand for demand in left if demand.jobs > 0]


def _free(pilot: LivePilot, room: Room, margin: float) -> Resource:
    fresh = fresh_pilot(room, margin)
    if pilot.state in PILOT_PENDING:
        return fresh
    return fresh.model_copy(
        update={
            "cores": pilot.cores,
            "memory": pilot.memory,
            "disk": pilot.disk,
            "wall_time": int(pilot.lasts),
        }
    )


def _less(free: Resource, requirement: Requirement, jobs: int) -> Resource:
    taken = {word: getattr(free, word) - jobs * getattr(requirement, word) for word in ("cores", "memory", "disk")}
    return free.model_copy(update=taken)


def _jobs_at_once(requirement: Requirement, free: Resource) -> int:
    return min(free.cores // requirement.cores, free.memory // requirement.memory, free.disk // requirement.disk)


def _wanted(room: Room, demand: Iterable[Demand], margin: float) -> bool:
    fresh = fresh_pilot(room, margin)
    return any(entry.jobs and entry.vo_id == room.vo_id and fits(entry.requirement, fresh) for entry in demand)


def fresh_pilot(room: Room, margin: float) -> Resource:
    """What a pilot of this queue offers when it has just begun."""
    entry = room.entry
    return Resource(
        site=room.site,
        cores=entry.cores,
        memory=entry.memory,
        disk=entry.disk,
        wall_time=int(entry.lifetime(margin) - min(STARTING, entry.wall_time / 10)),
        tags=entry.tags,
    )


def _place(pilot: LivePilot) -> Place:
    return pilot.site_queue_id, pilot.vo_id


@dataclass(frozen=True, slots=True)
class Next:
    """What a pilot becomes, and why."""

    to: PilotState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hearing:
    """The database's time, since when pilots could be heard (None: they can't be now), and when silence means death."""

    now: datetime
    since: datetime | None
    timeout: float

    def silent(self, pilot: BatchPilot) -> bool:
        """Whether the pilot has said nothing for too long while it could have been heard."""
        if self.since is None:
            return False
        last = max(pilot.last_seen or self.since, self.since)
        return self.now - last > timedelta(seconds=self.timeout)


def next_state(pilot: BatchPilot, answer: BatchAnswer | None, hearing: Hearing) -> Next | None:
    """What the batch system's answer makes of a pilot; None: nothing. A pilot's heartbeat outranks the answer."""
    ended = answer is not None and answer.state in BATCH_ENDED
    if pilot.state in PILOT_PENDING:
        if answer is None:
            return _unlisted(pilot, hearing)
        return _ended_unenrolled(pilot, answer) if ended else _pending(pilot, answer)
    if answer is not None and not ended:
        return None
    if not hearing.silent(pilot):
        return None
    reason = "the batch system does not know it any more" if answer is None else answer.reason
    if pilot.remove_requested:
        return Next(PilotState.REMOVED, reason)
    done = answer is not None and answer.state is BatchState.DONE
    return Next(PilotState.DONE if done else PilotState.FAILED, reason)


def _pending(pilot: BatchPilot, answer: BatchAnswer) -> Next | None:
    """A pilot that runs but has not enrolled still counts as queued."""
    to = PilotState.HELD if answer.state is BatchState.HELD else PilotState.QUEUED
    reason = "runs, but has not enrolled yet" if answer.state is BatchState.RUNNING else answer.reason
    if pilot.state is PilotState.REQUESTED:
        return Next(PilotState.SUBMITTED, "found at the batch system")
    return None if pilot.state is to else Next(to, reason)


def _ended_unenrolled(pilot: BatchPilot, answer: BatchAnswer) -> Next:
    if pilot.remove_requested:
        return Next(PilotState.REMOVED, answer.reason)
    return Next(PilotState.FAILED, f"ended before it enrolled: {answer.reason}")


def _unlisted(pilot: BatchPilot, hearing: Hearing) -> Next | None:
    if pilot.state is PilotState.REQUESTED:
        return Next(PilotState.REMOVED, "was not wanted any more") if pilot.remove_requested else None
    since = pilot.submitted_at
    if since is not None and hearing.now - since < timedelta(seconds=UNLISTED):
        return None
    return Next(
        PilotState.REMOVED if pilot.remove_requested else PilotState.FAILED,
        "the batch system does not know it any more",
    )


@dataclass(frozen=True, slots=True)
class Steps:
    """What a poll leads to: state changes of pending pilots, ends of enrolled ones, tags to submit and to remove."""

    moves: tuple[tuple[BatchPilot, Next], ...]
    ends: tuple[tuple[BatchPilot, Next], ...]
    submit: tuple[BatchPilot, ...]
    remove: tuple[str, ...]

    @property
    def stillborn(self) -> tuple[str, ...]:
        """Why pilots ended before they enrolled."""
        return tuple(then.reason for _, then in self.moves if then.to is PilotState.FAILED)


def follow(pilots: Sequence[BatchPilot], answers: Mapping[str, BatchAnswer], hearing: Hearing) -> Steps:
    """What to do about a queue's pilots, given what its batch system knows of them."""
    changes: defaultdict[bool, list[tuple[BatchPilot, Next]]] = defaultdict(list)
    submit, remove = [], []
    for pilot in pilots:
        answer = answers.get(pilot.tag)
        then = next_state(pilot, answer, hearing)
        if then is not None:
            changes[pilot.state in PILOT_PENDING].append((pilot, then))
        elif pilot.state is PilotState.REQUESTED:
            submit.append(pilot)
        if pilot.remove_requested and answer is not None and answer.state not in BATCH_ENDED:
            remove.append(pilot.tag)
    return Steps(tuple(changes[True]), tuple(changes[False]), tuple(submit), tuple(remove))


def healthy(pilots: Iterable[BatchPilot]) -> bool:
    """Whether pilots run on a queue: what went wrong there before is over."""
    return any(pilot.state in PILOT_ACTIVE for pilot in pilots)
