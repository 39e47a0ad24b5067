"""The cases: demand and sites of each, drawn from a seed. All queues give pilots of 8 cores, 5,000 cores in all.

In all cases but `mix` a job wants a whole pilot, so that rules which count jobs and rules which count cores agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from tests.simulation.world import DAY, HOUR, Case, Group, Job, Queue, Span

CORES = 8
ALL_CORES = 5_000
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a simulation is."""

    days: float = 7.0
    queues: int = 100
    capped: bool = False
    """Whether the limit over all queues binds the peers, too, though they have no such setting."""

    @property
    def pilots(self) -> int:
        """Those that all queues run at a time."""
        return round(ALL_CORES / CORES * self.queues / 100)


ONE_HOUR = Group(0, CORES, 1.5 * HOUR)
FOUR_HOURS = Group(1, CORES, 5 * HOUR)
TAGGED = Group(2, CORES, 3 * HOUR, tag="data")
"""Where the data are: at two thirds of the queues."""
TAIL = Group(3, CORES, 9 * HOUR)
WHOLE = (ONE_HOUR, FOUR_HOURS, TAGGED, TAIL)
MIX = (Group(0, 8, 4 * HOUR), Group(1, 4, 4 * HOUR), Group(2, 1, 3 * HOUR), Group(3, 1, 8 * HOUR))

Arrivals = Iterable[tuple[float, Group, float]]
"""Second, group, length."""


def steady(random: Random, scale: Scale) -> Arrivals:
    """Three kinds of jobs by day and by night, 60 % of what there is."""
    yield from _stream(random, scale, ONE_HOUR, 0.15)
    yield from _stream(random, scale, FOUR_HOURS, 0.30)
    yield from _stream(random, scale, TAGGED, 0.15)


def bursts(random: Random, scale: Scale) -> Arrivals:
    """Little by itself, and four times a day somebody submits short jobs for half to all of the pilots at once."""
    yield from _stream(random, scale, FOUR_HOURS, 0.05)
    for begin in _moments(random, scale, 4):
        for _ in range(round(scale.pilots * random.uniform(0.5, 1.0))):
            yield begin + random.uniform(0, 5 * MINUTE), ONE_HOUR, _length(random, ONE_HOUR)


def long_tail(random: Random, scale: Scale) -> Arrivals:
    """Two campaigns a day whose jobs take about an hour, but for one in twenty, which takes up to nine."""
    for begin in _moments(random, scale, 2):
        for _ in range(round(scale.pilots * random.uniform(1.5, 2.5))):
            group = TAIL if random.random() < 0.05 else ONE_HOUR
            yield begin + random.uniform(0, 30 * MINUTE), group, _length(random, group)


def campaign_end(random: Random, scale: Scale) -> Arrivals:
    """Every other day as much work as keeps all pilots busy for about a day, and then nothing."""
    for day in range(0, max(math.ceil(scale.days), 1), 2):
        for group, part in ((ONE_HOUR, 0.2), (FOUR_HOURS, 0.5), (TAGGED, 0.3)):
            for _ in range(round(part * scale.pilots * 20 * HOUR / (0.55 * group.wall_time))):
                yield day * DAY + random.uniform(0, 2 * HOUR), group, _length(random, group)


def waves(random: Random, scale: Scale) -> Arrivals:
    """A steady half, and a burst twice a day: so that queues that fail are missed."""
    yield from _stream(random, scale, ONE_HOUR, 0.15)
    yield from _stream(random, scale, FOUR_HOURS, 0.25)
    for begin in _moments(random, scale, 2):
        for _ in range(round(scale.pilots * 0.4)):
            yield begin + random.uniform(0, 10 * MINUTE), TAGGED, _length(random, TAGGED)


def mixed(random: Random, scale: Scale) -> Arrivals:
    """Jobs of 1, 4 and 8 cores, a steady half and three bursts a day."""
    parts = ((MIX[0], 0.2), (MIX[1], 0.1), (MIX[2], 0.1), (MIX[3], 0.1))
    for group, part in parts:
        yield from _stream(random, scale, group, part)
    for begin in _moments(random, scale, 3):
        group = MIX[random.randrange(len(MIX))]
        for _ in range(round(0.3 * scale.pilots * CORES / group.cores)):
            yield begin + random.uniform(0, 10 * MINUTE), group, _length(random, group)


def sites(random: Random, scale: Scale) -> Iterator[Queue]:
    """Queues from a few pilots to some dozens; most start pilots within minutes, some take an hour."""
    weights = [random.lognormvariate(0, 0.6) for _ in range(scale.queues)]
    for index, slots in enumerate(_apportion(scale.pilots, weights)):
        yield Queue(
            index=index,
            site=f"site{index // 2}",
            cores=CORES,
            slots=slots,
            max_pilots=slots + 2,
            max_pending=max(slots, 4),
            wall_time=random.choice((24, 24, 48, 72)) * HOUR,
            queue_time=random.choice((2, 4, 6, 10, 20, 60)) * MINUTE,
            phase=random.uniform(0, DAY),
            tags=frozenset({"data"} if random.random() < 2 / 3 else ()),
        )


def dead(random: Random, queues: Sequence[Queue], scale: Scale) -> Iterator[Queue]:
    """One in nine does not work: it refuses, starts nothing, or kills what it starts, half of the time for days."""
    for queue in queues:
        spans = _outages(random, scale)
        fault = random.choice(("refuses", "starts_nothing", "kills")) if queue.index % 9 == 4 else ""
        match fault:
            case "refuses":
                yield replace(queue, refuses=spans)
            case "starts_nothing":
                yield replace(queue, starts_nothing=spans)
            case "kills":
                yield replace(queue, kills=spans)
            case _:
                yield queue


def slow(random: Random, queues: Sequence[Queue], scale: Scale) -> Iterator[Queue]:  # noqa: ARG001 -- one form for all
    """Every third lets pilots wait for hours."""
    for queue in queues:
        yield replace(queue, queue_time=random.uniform(3, 8) * HOUR) if queue.index % 3 == 1 else queue


def short_proxies(random: Random, queues: Sequence[Queue], scale: Scale) -> Iterator[Queue]:  # noqa: ARG001
    """At half of them a proxy of 12 hours bounds a pilot's life, and at some of these pilots wait for hours."""
    for queue in queues:
        if queue.index % 2:
            yield queue
        else:
            waits = random.uniform(2, 5) * HOUR if queue.index % 8 == 0 else queue.queue_time
            yield replace(queue, credential=12 * HOUR, queue_time=waits)


Sites = Callable[[Random, Sequence[Queue], Scale], Iterable[Queue]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a case is made."""

    name: str
    title: str
    arrivals: Callable[[Random, Scale], Arrivals]
    groups: tuple[Group, ...] = WHOLE
    change: Sites | None = None
    half_waste: bool = False
    """Whether at most half of the better peer's waste is expected of us here, and not 110 %."""
    is_blind: bool = False
    cap: float = 1.2
    """Pilots over all queues, by those that run at a time: what waits for a slot is a part of it. What all queues'
    own limits allow together is about 1.3. No peer has such a limit, so it is out of reach where demand is beyond
    what there is."""


RECIPES = (
    Recipe("steady", "steady", steady),
    Recipe("bursts", "bursts", bursts, half_waste=True, cap=1.5),
    Recipe("tail", "long tail", long_tail, half_waste=True, cap=1.5),
    Recipe("end", "campaign end", campaign_end, cap=1.5),
    Recipe("dead", "dead queues", waves, change=dead),
    Recipe("slow", "slow queues", waves, change=slow),
    Recipe("proxies", "short proxies", waves, change=short_proxies),
    Recipe("mix", "multi-core mix", mixed, groups=MIX),
    Recipe("blind", "failed demand query", waves, is_blind=True),
)
NAMES = tuple(recipe.name for recipe in RECIPES)


def make(name: str, seed: int, scale: Scale) -> Case:
    """A case; the same seed makes the same one."""
    recipe = next(one for one in RECIPES if one.name == name)
    random = Random(f"{seed}/{name}")
    queues: Sequence[Queue] = tuple(sites(random, scale))
    if recipe.change is not None:
        queues = tuple(recipe.change(random, queues, scale))
    drawn = sorted(
        (one for one in recipe.arrivals(random, scale) if one[0] < scale.days * DAY),
        key=lambda one: (one[0], one[1].index, one[2]),
    )
    return Case(
        name=name,
        seed=seed,
        days=scale.days,
        queues=tuple(queues),
        groups=recipe.groups,
        jobs=tuple(Job(id_, at, group, length) for id_, (at, group, length) in enumerate(drawn)),
        max_pilots=round(recipe.cap * scale.pilots),
        is_capped=scale.capped,
        blind=tuple(_blindness(random, scale)) if recipe.is_blind else (),
    )


def _stream(random: Random, scale: Scale, group: Group, part: float) -> Iterator[tuple[float, Group, float]]:
    """Jobs that come one by one and take this part of all cores on average, half as much again by day."""
    rate = part * scale.pilots * CORES / (group.cores * 0.55 * group.wall_time)
    at = 0.0
    while True:
        at += random.expovariate(1.5 * rate)
        if at >= scale.days * DAY:
            return
        if random.random() < (1 + 0.5 * math.sin(2 * math.pi * at / DAY)) / 1.5:
            yield at, group, _length(random, group)


def _length(random: Random, group: Group) -> float:
    """Half of what was asked for, about: a fifth to nine tenths."""
    return group.wall_time * random.uniform(0.2, 0.9)


def _moments(random: Random, scale: Scale, a_day: int) -> Iterator[float]:
    """So many a day, at random."""
    for _ in range(max(round(scale.days * a_day), 1)):
        yield random.uniform(0, max(scale.days * DAY - 4 * HOUR, HOUR))


def _outages(random: Random, scale: Scale) -> tuple[Span, ...]:
    """All of the time, or a day here and there."""
    if random.random() < 0.5:
        return ((0.0, math.inf),)
    begins = [random.uniform(0, scale.days * DAY) for _ in range(max(round(scale.days / 3), 1))]
    return tuple((begin, begin + DAY) for begin in begins)


def _blindness(random: Random, scale: Scale) -> Iterator[Span]:
    """Six times a day for two to thirty minutes."""
    for begin in _moments(random, scale, 6):
        yield begin, begin + random.uniform(2, 30) * MINUTE


def _apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers of at least 1 that add up to the total, by weight."""
    whole = sum(weights)
    parts = [max(round(total * weight / whole), 1) for weight in weights]
    order = sorted(range(len(parts)), key=lambda index: -parts[index])
    step = 1 if sum(parts) < total else -1
    for index in order * total:
        if sum(parts) == total:
            break
        if parts[index] + step >= 1:
            parts[index] += step
    return parts
