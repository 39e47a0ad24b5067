"""The pure part of matching until shell.py uses its successor, `rounds` (H2): which jobs go to which slots.

Levels (the jobs of an autocluster that have one priority) are served one after the other: higher priority first,
then what wants more cores, so that a whole node is not split up while jobs that fill it wait, then the oldest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from heapq import heapify, heappop, heappush
from typing import Protocol

from pipeline.store.jobs import JobRow
from pipeline.store.matching import Level, Place, Room
from schemas.requirements import Names, Requirement, Resource, fits


class Backlog(Protocol):
    """What waits, as far as it is not known yet."""

    def take(self, level: Level, most: int) -> Sequence[JobRow]:
        """Up to so many jobs of a level, the oldest first."""
        ...

    def after(self, level: Level) -> Level | None:
        """The next lower level of the same autocluster."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """A pilot with what is free of it; `time_left` is seconds."""

    place: Place
    free: Room
    time_left: float


@dataclass(frozen=True, slots=True)
class Match:
    """One job and the place that gets it."""

    job: JobRow
    place: Place


@dataclass(frozen=True, slots=True)
class Outcome:
    """The matches; autoclusters of which less could be had than the slots could take; whether `most` ended it."""

    matches: tuple[Match, ...] = ()
    drained: frozenset[int] = frozenset()
    is_cut_short: bool = False


@dataclass(slots=True)
class _Table:
    """The state of one round: what is left of each slot, each site and of the whole."""

    slots: list[Slot]
    rooms: dict[int, int]
    left: int
    matches: list[Match] = field(default_factory=list)


def rank(level: Level) -> tuple[int, int, int]:
    """By which levels are served, the least first."""
    return -level.priority, -level.requirement.cores, level.head_job_id


def match(
    slots: Sequence[Slot], heads: Iterable[Level], rooms: Mapping[int, int], backlog: Backlog, most: int
) -> Outcome:
    """At most `most` matches. `heads` are the highest levels of their autoclusters, `rooms` says how many more jobs
    those sites may run that have a limit.

    A slot is filled before the next one gets anything: empty pilots can then end.
    """
    table = _Table([slot for slot in slots if slot.free.cores > 0], dict(rooms), most)
    drained = set()
    queue = [(rank(level), level) for level in heads]
    heapify(queue)
    while queue and table.slots and table.left > 0:
        _, level = heappop(queue)
        shares = list(_shares(level, table))
        wanted = sum(count for _, count in shares)
        taken = backlog.take(level, wanted) if wanted else ()
        _deal(level, shares, taken, table)
        if len(taken) < wanted:
            drained.add(level.autocluster_id)
            lower = backlog.after(level)
            if lower is not None:
                heappush(queue, (rank(lower), lower))
    return Outcome(tuple(table.matches), frozenset(drained), table.left <= 0)


def wanted_by(slots: Sequence[Slot], level: Level) -> bool:
    """Whether one of the slots could take a job of this level."""
    return any(_capacity(level, slot) > 0 for slot in slots)


def suits(place: Place, level: Level) -> bool:
    """Whether the place may run jobs of the level, room and time aside."""
    return place.vo_id == level.vo_id and _suits(place.site, place.tags, _Wish(level.signature, level.requirement))


def trimmed(matches: Iterable[Match], rooms: Mapping[int, int]) -> list[Match]:
    """The matches that the sites' limits leave room for, in order."""
    left = dict(rooms)
    kept = []
    for found in matches:
        site_id = found.place.site_id
        if left.get(site_id, 1) > 0:
            kept.append(found)
            if site_id in left:
                left[site_id] -= 1
    return kept


def _shares(level: Level, table: _Table) -> Iterator[tuple[int, int]]:
    """(index of a slot, jobs of the level that it can take), within the room of sites and of the round."""
    rooms, left = dict(table.rooms), table.left
    for index, slot in enumerate(table.slots):
        if left <= 0:
            return
        site_id = slot.place.site_id
        count = min(_capacity(level, slot), rooms.get(site_id, left), left)
        if count > 0:
            left -= count
            if site_id in rooms:
                rooms[site_id] -= count
            yield index, count


def _capacity(level: Level, slot: Slot) -> int:
    wants, free = level.requirement, slot.free
    if wants.cores > free.cores or wants.wall_time > slot.time_left or not suits(slot.place, level):
        return 0
    return max(min(free.cores // wants.cores, free.memory // wants.memory, free.disk // wants.disk), 0)


def _deal(level: Level, shares: Iterable[tuple[int, int]], taken: Sequence[JobRow], table: _Table) -> None:
    wants, dealt = level.requirement, 0
    for index, count in shares:
        mine = taken[dealt : dealt + count]
        if not mine:
            break
        slot, dealt = table.slots[index], dealt + len(mine)
        table.matches += [Match(job, slot.place) for job in mine]
        table.slots[index] = replace(slot, free=_less(slot.free, wants, len(mine)))
        site_id = slot.place.site_id
        if site_id in table.rooms:
            table.rooms[site_id] -= len(mine)
    table.left -= dealt
    table.slots = [slot for slot in table.slots if slot.free.cores > 0]


def _less(free: Room, wants: Requirement, count: int) -> Room:
    return Room(free.cores - count * wants.cores, free.memory - count * wants.memory, free.disk - count * wants.disk)


@dataclass(frozen=True, slots=True)
class _Wish:
    """A requirement that is told apart by its signature: quick to hash."""

    signature: str
    requirement: Requirement = field(compare=False)


@lru_cache(maxsize=100_000)
def _suits(site: str, tags: Names, wish: _Wish) -> bool:
    wants = wish.requirement
    roomy = Resource(
        site=site, tags=tags, cores=wants.cores, memory=wants.memory, disk=wants.disk, wall_time=wants.wall_time
    )
    return fits(wants, roomy)
