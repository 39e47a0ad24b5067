"""The pure rules of provisioning: how many pilots where, and what a batch system's answer means for a pilot."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from executors.pilots.port import BATCH_ENDED, BatchAnswer, BatchState
from pipeline.store.provisioning import Demand, LivePilot, Room, Situation
from pipeline.store.queue_pilots import BatchPilot
from schemas import rooms as grants
from schemas.placement import fresh_pilot
from schemas.requirements import Resource, Specification, grant, room_of, static_misfits
from schemas.states import PILOT_ACTIVE, PILOT_PENDING, PilotState

UNLISTED = 120.0
"""Seconds after its submission until a pilot that the batch system does not list counts as gone."""
_ROUNDING = 1e-9
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
    by_place = {(room.site_queue_id, room.vo_id): _Queue.of(room, margin) for room in now.rooms}
    left = [_Left(demand, demand.jobs) for demand in now.demand]
    left.sort(key=lambda demand: -max(one.min_cores for one in demand.alternatives))
    idle = frozenset(place for place, queue in by_place.items() if not any(d.jobs and queue.suits(d) for d in left))
    _serve(left, now.pilots, by_place)
    ledger = _Ledger.of(now)
    for split in (True, False):  # first no VO takes more than its part of a queue, then what is left goes to anybody
        for demand in left:
            demand.jobs = _share(demand, by_place.values(), ledger, split=split)
    requests = tuple(
        Request(by_place[place].room, count) for place, count in sorted(ledger.requested.items()) if count > 0
    )
    removals = tuple(
        pilot.id
        for pilot in now.pilots
        if pilot.state in PILOT_PENDING
        and not pilot.leaves
        and (_place(pilot) not in by_place or _place(pilot) in idle & now.idle)
    )
    return Plan(requests, removals, idle)


@dataclass(slots=True, eq=False)
class _Left:
    """Waiting jobs for which there is no slot yet."""

    demand: Demand
    jobs: int

    @property
    def alternatives(self) -> tuple[Specification, ...]:
        return self.demand.requirement.specifications()


@dataclass(slots=True, eq=False)
class _Queue:
    """A site queue for one VO, with what its fresh pilots offer and how many jobs of each demand one would run."""

    room: Room
    fresh: Resource
    usable_by: dict[_Left, tuple[Specification, ...]] = field(default_factory=dict)
    at_once: dict[_Left, int] = field(default_factory=dict)

    @classmethod
    def of(cls, room: Room, margin: float) -> _Queue:
        return cls(room, fresh_pilot(room.site, room.entry, margin))

    def suits(self, left: _Left) -> bool:
        """Whether a fresh pilot could run a job of it."""
        return self.jobs_at_once(left) > 0

    def jobs_at_once(self, left: _Left) -> int:
        """Jobs that a fresh pilot would run side by side."""
        if left not in self.at_once:
            whole, lasts = room_of(self.fresh), self.fresh.wall_time
            counts = (_packed(one, whole, lasts, self.fresh.power)[0] for one in self.usable(left))
            self.at_once[left] = next(filter(None, counts), 0)
        return self.at_once[left]

    def usable(self, left: _Left) -> tuple[Specification, ...]:
        """The alternatives that its pilots could run, if room and time were left."""
        if left not in self.usable_by:
            mine = self.room.vo_id == left.demand.vo_id and self.room.only_job_type in {None, left.demand.job_type}
            alternatives = left.alternatives if mine else ()
            self.usable_by[left] = tuple(one for one in alternatives if not static_misfits(one, self.fresh))
        return self.usable_by[left]


@dataclass(slots=True)
class _Ledger:
    """Pilots by queue: how many live, how many are pending, how many this plan adds."""

    live: Counter[int]
    pending: Counter[int]
    shares: Mapping[int, float]
    """By queue, the shares of all VOs that want something together."""
    requested: Counter[Place] = field(default_factory=Counter)

    @classmethod
    def of(cls, now: Situation) -> _Ledger:
        live: Counter[int] = Counter(pilot.site_queue_id for pilot in now.pilots if pilot.state is not PilotState.LOST)
        pending = Counter(pilot.site_queue_id for pilot in now.pilots if pilot.state in PILOT_PENDING)
        wanting = {demand.vo_id for demand in now.demand}
        shares: defaultdict[int, float] = defaultdict(float)
        for room in now.rooms:
            if room.vo_id in wanting:
                shares[room.site_queue_id] += room.share
        return cls(live, pending, shares)

    def room(self, place: Room, *, split: bool) -> int:
        """Pilots that may still be requested; `split`: of a queue that several VOs want, one VO's part alone."""
        queue = place.site_queue_id
        free = min(place.entry.max_pilots - self.live[queue], place.entry.max_pending_pilots - self.pending[queue])
        if not split or self.shares[queue] <= place.share:
            return max(free, 0)
        mine = self.requested[queue, place.vo_id]
        whole = free + sum(n for (q, _), n in self.requested.items() if q == queue)
        part = math.ceil(whole * place.share / self.shares[queue] - _ROUNDING)
        return max(min(free, part - mine), 0)

    def request(self, place: Room, count: int) -> None:
        """Note it."""
        self.live[place.site_queue_id] += count
        self.pending[place.site_queue_id] += count
        self.requested[place.site_queue_id, place.vo_id] += count


def _share(left: _Left, queues: Iterable[_Queue], ledger: _Ledger, *, split: bool) -> int:
    """Request pilots for the demand, in proportion to free cores; the jobs that are left without one."""
    fitting = [
        (ledger.room(queue.room, split=split), queue) for queue in queues if queue.room.open and queue.suits(left)
    ]
    fitting.sort(key=lambda pair: (-pair[0] * pair[1].fresh.cores, pair[1].room.site_queue_id))
    cores = sum(free * queue.fresh.cores for free, queue in fitting)
    jobs = left.jobs
    for free, queue in fitting:
        if jobs <= 0 or free <= 0:
            break
        part = -(-jobs * free * queue.fresh.cores // cores)
        each = queue.jobs_at_once(left)
        count = min(free, -(-part // each))
        ledger.request(queue.room, count)
        cores -= free * queue.fresh.cores
        jobs -= count * each
    return max(jobs, 0)


def _serve(left: Iterable[_Left], pilots: Iterable[LivePilot], queues: Mapping[Place, _Queue]) -> None:
    """Take off the demand what fits free slots and pilots to come, the largest jobs first."""
    for pilot in pilots:
        queue = queues.get(_place(pilot))
        if queue is None or pilot.leaves:
            continue
        if pilot.state in PILOT_PENDING:
            free, lasts = room_of(queue.fresh), float(queue.fresh.wall_time)
        else:
            free, lasts = grants.Room(pilot.cores, pilot.memory, pilot.disk, pilot.gpus), pilot.lasts
        for demand in left:
            if demand.jobs <= 0 or free.cores <= 0:
                continue
            for wanted in queue.usable(demand):
                count, free = _packed(wanted, free, lasts, queue.fresh.power, demand.jobs)
                demand.jobs -= count


def _packed(
    wanted: Specification, room: grants.Room, lasts: float, power: float | None, most: int | None = None
) -> tuple[int, grants.Room]:
    """How many such jobs fit side by side, and the room that they leave."""
    packed = 0
    while most is None or packed < most:
        given = grant(wanted, room, lasts, power)
        if given is None:
            break
        count = min(
            have // take
            for have, take in (
                (room.cores, given.cores),
                (room.memory, given.memory),
                (room.disk, given.disk),
                (room.gpus, given.gpus),
            )
            if take
        )
        count = count if most is None else min(count, most - packed)
        packed += count
        room = room.less(given, count)
    return packed, room


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
