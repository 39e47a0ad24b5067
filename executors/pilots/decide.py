"""The pure rules of provisioning: how many pilots where."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from executors.pilots.allowance import Allowance
from pipeline.store.match_rows import LimitRow
from pipeline.store.provisioning_rows import Demand, LivePilot, Place, Room, Situation
from schemas import rooms as grants
from schemas.placement import fresh_pilot
from schemas.requirements import Resource, Specification, grant, room_of, suits
from schemas.states import PILOT_PENDING, PilotState

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PlanRules:
    """What a plan is made by. Times are seconds."""

    margin: float = 300.0
    """By which a pilot's life is shorter than its wall time."""
    cycle: float = 20.0
    """From one cycle to the next."""


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """What is to be done for one VO at one site queue."""

    room: Room
    wanted: int
    """Pilots that the demand wants there."""
    request: int = 0
    remove: tuple[int, ...] = ()
    """Pending pilots."""
    drain: tuple[int, ...] = ()
    """Active pilots, whose jobs end first."""
    low_cycles: int = 0
    hold_until: datetime | None = None
    why: str = ""
    """One line for people."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An order for each room, and the pending pilots of places that are declared no more: they go at once."""

    orders: tuple[PlaceOrder, ...]
    strays: tuple[int, ...] = ()


def plan(now: Situation, rules: PlanRules = PlanRules()) -> Plan:
    """What to request and what to remove."""
    by_place = {room.place: _Queue(room, _fresh(room, rules.margin)) for room in now.rooms}
    allowance = Allowance(now.limits)
    demand = [one for one in now.reading.demand if one.jobs]
    left = [_Left(one, one.jobs, allowance.rules_of(one.owner)) for one in demand]
    left.sort(key=lambda one: -max(spec.min_cores for spec in one.alternatives))
    _pair(left, by_place.values())
    idle = frozenset(by_place) - {queue.room.place for one in left for queue, _ in one.queues}
    _serve(now.pilots, by_place, allowance)
    ledger = _Ledger.of(now)
    for split in (True, False):  # first no VO takes more than its part of a queue, then what is left goes to anybody
        for one in left:
            one.jobs = _share(one, ledger, allowance, split=split)
    orders = []
    for place, queue in by_place.items():
        low = now.past[place].low_cycles if place in now.past else 0
        if now.reading.is_sure:
            low = low + 1 if place in idle else 0
        pending = [p.id for p in now.pilots if p.place == place and p.state in PILOT_PENDING and not p.leaves]
        gone = tuple(pending) if now.reading.is_sure and low >= 2 else ()
        count = max(ledger.requested[place], 0)
        orders.append(PlaceOrder(queue.room, count, count, remove=gone, low_cycles=low, why=f"{count} wanted"))
    strays = [p.id for p in now.pilots if p.place not in by_place and p.state in PILOT_PENDING and not p.leaves]
    return Plan(tuple(orders), tuple(strays))


@dataclass(slots=True, eq=False)
class _Left:
    """Waiting jobs for which there is no slot yet, the rules that count them, the queues that could run them and how
    many a pilot there at once."""

    demand: Demand
    jobs: int
    rules: tuple[LimitRow, ...] = ()
    queues: list[tuple[_Queue, int]] = field(default_factory=list)

    @property
    def alternatives(self) -> tuple[Specification, ...]:
        return self.demand.requirement.specifications()


@dataclass(slots=True, eq=False)
class _Queue:
    """A site queue for one VO, what its fresh pilots offer, and the demand that may run there by these alternatives."""

    room: Room
    fresh: Resource
    suited: list[tuple[_Left, tuple[Specification, ...]]] = field(default_factory=list)


def _pair(left: Iterable[_Left], queues: Iterable[_Queue]) -> None:
    """Find out what could run where, once for each pair."""
    by_vo: defaultdict[int, list[_Queue]] = defaultdict(list)
    for queue in queues:
        by_vo[queue.room.vo_id].append(queue)
    for demand in left:
        for queue in by_vo[demand.demand.vo_id]:
            if queue.room.only_job_type not in {None, demand.demand.job_type}:
                continue
            usable = tuple(one for one in demand.alternatives if suits(one, queue.fresh))
            if usable:
                queue.suited.append((demand, usable))
                whole, lasts, power = room_of(queue.fresh), queue.fresh.wall_time, queue.fresh.power
                counts = (_packed(one, whole, lasts, power)[0] for one in usable)
                each = next(filter(None, counts), 0)
                if each:
                    demand.queues.append((queue, each))


@dataclass(slots=True)
class _Ledger:
    """Pilots by queue: how many live, how many are pending, how many this plan adds."""

    live: Counter[int]
    pending: Counter[int]
    shares: Mapping[int, float]
    """By queue, the shares of all VOs that want something together."""
    requested: Counter[Place] = field(default_factory=Counter)
    added: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, now: Situation) -> _Ledger:
        live: Counter[int] = Counter(pilot.site_queue_id for pilot in now.pilots if pilot.state is not PilotState.LOST)
        pending = Counter(pilot.site_queue_id for pilot in now.pilots if pilot.state in PILOT_PENDING)
        wanting = {demand.vo_id for demand in now.reading.demand}
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
        whole = free + self.added[queue]
        part = math.ceil(whole * place.share / self.shares[queue] - _ROUNDING)
        return max(min(free, part - mine), 0)

    def request(self, place: Room, count: int) -> None:
        """Note it."""
        self.live[place.site_queue_id] += count
        self.pending[place.site_queue_id] += count
        self.requested[place.site_queue_id, place.vo_id] += count
        self.added[place.site_queue_id] += count


def _share(left: _Left, ledger: _Ledger, allowance: Allowance, *, split: bool) -> int:
    """Request pilots for the demand, in proportion to free cores; the jobs that are left without one."""
    if left.jobs <= 0:
        return 0
    open_ = [(queue, each) for queue, each in left.queues if not queue.room.closed]
    fitting = [(ledger.room(queue.room, split=split), queue, each) for queue, each in open_]
    fitting.sort(key=lambda one: (-one[0] * one[1].fresh.cores, one[1].room.site_queue_id))
    cores = sum(free * queue.fresh.cores for free, queue, _ in fitting)
    jobs = left.jobs
    for free, queue, each in fitting:
        if jobs <= 0 or free <= 0:
            break
        part = -(-jobs * free * queue.fresh.cores // cores)
        cores -= free * queue.fresh.cores
        most = int(min(jobs, allowance.room(left.rules, queue.room.site_id)))
        count = min(free, -(-min(part, most) // each))
        if count > 0:
            provided = min(count * each, most)
            ledger.request(queue.room, count)
            allowance.take(left.rules, queue.room.site_id, provided)
            jobs -= provided
    return max(jobs, 0)


def _serve(pilots: Iterable[LivePilot], queues: Mapping[Place, _Queue], allowance: Allowance) -> None:
    """Take off the demand what fits free slots and pilots to come, the largest jobs first."""
    for pilot in pilots:
        queue = queues.get(pilot.place)
        if queue is None or pilot.leaves:
            continue
        if pilot.state in PILOT_PENDING:
            free, lasts = room_of(queue.fresh), float(queue.fresh.wall_time)
        else:
            free, lasts = grants.Room(pilot.cores, pilot.memory, pilot.disk, pilot.gpus), pilot.lasts
        for demand, usable in queue.suited:
            if free.cores <= 0:
                break
            for wanted in usable if demand.jobs else ():
                most = int(min(demand.jobs, allowance.room(demand.rules, queue.room.site_id)))
                count, free = _packed(wanted, free, lasts, queue.fresh.power, most)
                allowance.take(demand.rules, queue.room.site_id, count)
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


def _fresh(room: Room, margin: float) -> Resource:
    return fresh_pilot(room.site, room.entry, margin)
