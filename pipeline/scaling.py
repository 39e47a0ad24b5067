"""How many consumers a queue needs, from what arrives, what a message costs and what waits. Pure.

docs/explanation/scaling.md says why it is as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from pipeline.errors import BadSettings

MEMORY = 120.0
"""Seconds over which arrivals and costs are averaged: what was before them counts for a third."""
ASLEEP = 1 / 600
"""Arrivals per second below which a queue without a backlog needs nobody, where the bounds allow that."""
_MESSAGES = 30.0
"""Nor over less than so many messages take one after the other: of long ones chance makes more."""
_PATIENCE = 4.0
"""A message may wait for as long as so many take, whatever is aimed at."""
_HASTE = 4.0
"""What is late is worked off at most so many times as fast as what is in time."""
_LOW, _MIDDLE, _HIGH = 0.25, 0.5, 1.25
"""Head-room over the load that chance takes, in its square roots: less than the first is too little, more than the
last too much, and between them nothing changes."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Processes wanted at the least and at the most."""

    least: int = 1
    most: int = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a queue."""

    queue: str
    measured_at: datetime
    settled: int
    """Messages that were done or died, ever."""
    busy_seconds: float
    """Seconds of worker slots that such work took, ever."""
    backlog: int
    """Messages that wait, that are in flight, and that were put off and are due."""
    deferred: int
    """Messages that were put off and are not due yet."""
    oldest_age: float | None
    """Seconds that the oldest message has waited."""
    workers: int
    """Live processes that serve the queue."""


@dataclass(frozen=True, slots=True)
class Size(Reading):
    """A reading, what it says together with those before, and the processes wanted."""

    arrivals: float = 0.0
    """Messages per second."""
    seconds: float | None = None
    """Of a worker slot, per message; None while none has been settled."""
    wanted: int = 1


@dataclass(frozen=True, slots=True)
class Capacity:
    """What processes are like and what is aimed at: slots of one process, seconds that a message may wait."""

    slots: float = 1.0
    aim: float = 60.0


def measure(before: Size | None, now: Reading, capacity: Capacity, bounds: Bounds) -> Size:
    """What the queue needs now, by this reading and by what was known before.

    Arrivals are what the backlog has grown by and what was settled meanwhile; one that is put off and comes due is
    none. Where nothing was settled, more workers would not help either, or there are none yet that show it: no more
    are wanted than before.
    """
    if before is None:
        return Size(**asdict(now), wanted=_within(1, bounds))
    elapsed = (now.measured_at - before.measured_at).total_seconds()
    settled = max(0, now.settled - before.settled)
    arrived = settled + (now.backlog + now.deferred) - (before.backlog + before.deferred)
    memory = max(MEMORY, _MESSAGES * (before.seconds or 0.0))
    weight = 1 - math.exp(-max(elapsed, 1e-3) / memory)
    arrivals = max(0.0, before.arrivals + weight * (arrived / max(elapsed, 1e-3) - before.arrivals))
    seconds = _cost(before, settled, max(0.0, now.busy_seconds - before.busy_seconds), memory)
    size = Size(**asdict(now), arrivals=arrivals, seconds=seconds, wanted=before.wanted)
    enough = wanted(size, capacity, bounds)
    if not settled:
        enough = before.wanted if now.backlog else min(enough, before.wanted)
    return replace(size, wanted=_within(max(enough, 1 if now.backlog else 0), bounds))


def wanted(size: Size, capacity: Capacity, bounds: Bounds) -> int:
    """Processes wanted, `size.wanted` being what was wanted before; at most doubled at a time."""
    if size.backlog == 0 and size.arrivals < ASLEEP:
        return _within(0, bounds)
    needed = slots_needed(size, capacity.aim)
    before = max(1, size.wanted)
    if _with_room(needed, _LOW) > before * capacity.slots or _processes(needed, _HIGH, capacity) < before:
        return _within(min(_processes(needed, _MIDDLE, capacity), 2 * before), bounds)
    return _within(before, bounds)


def slots_needed(size: Size, aim: float) -> float:
    """Worker slots that keep up with what arrives, and work off what would wait for longer than `aim` seconds.

    Not late is what those who keep up have in their hands, and what arrives within half of `aim`: chance alone lets so
    much wait. As the oldest message comes to be that late this grace goes, and there is less time for the rest.
    """
    seconds = size.seconds or 0.0
    aim = max(aim, _PATIENCE * seconds)
    load = size.arrivals * seconds
    late = max(0.0, (size.oldest_age or 0.0) - aim / 2)
    grace = load + size.arrivals * max(0.0, aim / 2 - late)
    left = max(aim - late, aim / _HASTE)
    return load + max(0.0, size.backlog - grace) * seconds / left


def bounds_of(queue: str, least: Mapping[str, int], most: Mapping[str, int]) -> Bounds:
    """The bounds of a queue, by what operators set for single ones. Raises BadSettings where no number is between."""
    default = Bounds()
    lower = least.get(queue, min(default.least, most.get(queue, default.most)))
    upper = most.get(queue, max(default.most, lower))
    if lower > upper:
        raise BadSettings(f"PENSTOCK_LEAST_WORKERS: {queue} has {lower}, and PENSTOCK_MOST_WORKERS only {upper}")
    return Bounds(lower, upper)


def _cost(before: Size, settled: int, busy: float, memory: float) -> float | None:
    """Seconds per message; a few messages weigh little beside the many that are remembered."""
    if not settled:
        return before.seconds
    if before.seconds is None:
        return busy / settled
    weight = settled / (settled + before.arrivals * memory)
    return before.seconds + weight * (busy / settled - before.seconds)


def _processes(needed: float, room: float, capacity: Capacity) -> int:
    return max(1, math.ceil(_with_room(needed, room) / capacity.slots))


def _with_room(needed: float, room: float) -> float:
    return needed + room * math.sqrt(needed)


def _within(processes: int, bounds: Bounds) -> int:
    return min(max(processes, bounds.least), bounds.most)
