"""How many consumers are wanted: more for more work, none the more for chance, never out of bounds."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadSettings
from pipeline.scaling import Bounds, Capacity, Reading, Size, bounds_of, measure

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
INTERVAL = 10.0
WIDE = Bounds(1, 1_000)
ONE_SLOT = Capacity()

counts = st.integers(0, 100_000)
ages = st.one_of(st.none(), st.floats(0, 10_000))
costs = st.one_of(st.none(), st.floats(0, 400))
bounds = st.builds(lambda least, more: Bounds(least, max(1, least + more)), st.integers(0, 5), st.integers(0, 50))
capacities = st.builds(Capacity, st.floats(1, 16), st.floats(1, 3_600))
befores = st.builds(
    Size, queue=st.just("data"), measured_at=st.just(NOON), settled=st.just(0), busy_seconds=st.just(0.0),
    backlog=counts, deferred=counts, oldest_age=ages, workers=st.integers(0, 60), arrivals=st.floats(0, 10_000),
    seconds=costs, wanted=st.integers(0, 60),
)  # fmt: skip
readings = st.builds(
    lambda later, **values: Reading("data", NOON + timedelta(seconds=later), **values),
    later=st.floats(1, 7_200), settled=counts, busy_seconds=st.floats(0, 1e6), backlog=counts, deferred=counts,
    oldest_age=ages, workers=st.integers(0, 60),
)  # fmt: skip


def size(**values: object) -> Size:
    """A queue that has nothing to do, but for `values`."""
    idle = Size(
        queue="data", measured_at=NOON, settled=0, busy_seconds=0.0, backlog=0, deferred=0, oldest_age=None, workers=1
    )
    return replace(idle, **values)  # type: ignore[arg-type]


def later(before: Size, **values: object) -> Reading:
    """The next reading, like the one before but for `values`."""
    names = ("queue", "settled", "busy_seconds", "backlog", "deferred", "oldest_age", "workers")
    known: dict[str, object] = {name: getattr(before, name) for name in names}
    moment = before.measured_at + timedelta(seconds=INTERVAL)
    return Reading(measured_at=moment, **(known | values))  # type: ignore[arg-type]


@given(befores, readings, capacities, bounds)
def test_what_is_wanted_is_within_its_bounds(before: Size, now: Reading, capacity: Capacity, within: Bounds) -> None:
    measured = measure(before, now, capacity, within)
    assert within.least <= measured.wanted <= within.most
    assert measured.arrivals >= 0
    assert measure(None, now, capacity, within).wanted == max(1, within.least)


@given(befores, readings, capacities, st.integers(0, 100_000))
def test_more_backlog_never_wants_fewer(before: Size, now: Reading, capacity: Capacity, more: int) -> None:
    deeper = replace(now, backlog=now.backlog + more)
    assert measure(before, deeper, capacity, WIDE).wanted >= measure(before, now, capacity, WIDE).wanted


@given(befores, readings, capacities, st.floats(0, 10_000))
def test_an_older_backlog_never_wants_fewer(before: Size, now: Reading, capacity: Capacity, more: float) -> None:
    older = replace(now, oldest_age=(now.oldest_age or 0.0) + more)
    assert measure(before, older, capacity, WIDE).wanted >= measure(before, now, capacity, WIDE).wanted


@given(befores, readings, capacities)
def test_where_nothing_is_settled_no_more_are_wanted(before: Size, now: Reading, capacity: Capacity) -> None:
    stuck = replace(now, settled=before.settled, busy_seconds=before.busy_seconds)
    assert measure(before, stuck, capacity, WIDE).wanted <= max(1, before.wanted)


@given(befores, readings, st.floats(1, 3_600), st.integers(2, 16))
def test_processes_of_more_slots_are_never_wanted_in_greater_number(
    before: Size, now: Reading, aim: float, slots: int
) -> None:
    before = replace(before, wanted=1)
    few = measure(before, now, Capacity(slots, aim), WIDE).wanted
    assert few <= measure(before, now, Capacity(1, aim), WIDE).wanted


def simulated(rate: float, seconds: float, seed: int, *, hours: float, slots: int = 1) -> list[int]:
    """What is wanted, every 10 s, of a queue of constant load that has what it wants; the first half hour left out.

    Messages come by chance, at a constant mean, and take `seconds` each in the mean, some much more.
    """
    chance = random.Random(seed)
    arrival, look = chance.expovariate(rate), INTERVAL
    waiting: deque[float] = deque()
    running: list[float] = []
    settled, busy = 0, 0.0
    measured: Size | None = None
    wanted: list[int] = []
    while look < hours * 3_600:
        now = min(arrival, look, running[0] if running else arrival)
        if now == look:
            age = now - waiting[0] if waiting else None
            moment = NOON + timedelta(seconds=now)
            seen = Reading("data", moment, settled, busy, len(waiting) + len(running), 0, age, 1)
            measured = measure(measured, seen, Capacity(slots), WIDE)
            wanted.append(measured.wanted)
            look += INTERVAL
        elif now == arrival:
            waiting.append(now)
            arrival += chance.expovariate(rate)
        else:
            heapq.heappop(running)
            settled += 1
        while waiting and len(running) < (measured.wanted if measured else 1) * slots:
            waiting.popleft()
            taken = chance.expovariate(1 / seconds)
            busy += taken
            heapq.heappush(running, now + taken)
    return wanted[180:]


@pytest.mark.parametrize(
    ("rate", "seconds"), [(0.01, 1), (0.1, 10), (0.1, 60), (1, 1), (1, 5), (10, 0.05), (10, 1), (3, 10), (40, 0.5)]
)
def test_a_constant_load_changes_nothing_but_seldom(rate: float, seconds: float) -> None:
    load = rate * seconds
    for seed in range(2):
        wanted = simulated(rate, seconds, seed, hours=2.5)
        changes = sum(one != other for one, other in pairwise(wanted))
        assert changes <= 14, f"{changes} in two hours"
        mean = sum(wanted) / len(wanted)
        assert max(1, load) <= mean <= load + 2 * load**0.5 + 1


def test_a_backlog_is_worked_off_within_what_is_aimed_at_and_the_crew_shrinks_again() -> None:
    measured, queued, settled = size(seconds=0.05), 20_000, 0
    wanted: list[int] = []
    while queued and len(wanted) < 60:
        done = min(queued, round(measured.wanted * INTERVAL / 0.05))
        queued, settled = queued - done, settled + done
        age = INTERVAL * (len(wanted) + 1)
        reading = later(measured, settled=settled, busy_seconds=settled * 0.05, backlog=queued, oldest_age=age)
        measured = measure(measured, reading, ONE_SLOT, WIDE)
        wanted.append(measured.wanted)
    assert len(wanted) * INTERVAL <= 120, "a minute is aimed at, and the numbers double at most"
    assert wanted[0] <= 2
    assert max(wanted) <= 64
    for _ in range(120):
        measured = measure(measured, later(measured, oldest_age=None), ONE_SLOT, WIDE)
    assert measured.wanted == 1


def test_one_worker_that_is_never_idle_gets_another() -> None:
    """A campaign has a few messages in the queue at a time, however many jobs it has."""
    measured = size()
    for _ in range(30):
        done = later(measured, settled=measured.settled + 50, busy_seconds=measured.busy_seconds + 9.9, backlog=4)
        measured = measure(measured, done, ONE_SLOT, WIDE)
    assert measured.wanted == 2
    assert measured.arrivals == pytest.approx(5, rel=0.2)
    assert measured.seconds == pytest.approx(0.198)


def test_a_queue_without_work_wants_the_least_and_one_with_work_wants_somebody() -> None:
    nobody = Bounds(0, 4)
    assert measure(size(), later(size()), ONE_SLOT, nobody).wanted == 0
    asleep = size(wanted=0)
    assert measure(asleep, later(asleep, backlog=1), ONE_SLOT, nobody).wanted == 1


def test_messages_that_are_put_off_and_come_due_did_not_arrive() -> None:
    before = size(backlog=100, seconds=1.0)
    outage = measure(before, later(before, backlog=0, deferred=100), ONE_SLOT, WIDE)
    due_again = measure(outage, later(outage, backlog=100, deferred=0), ONE_SLOT, WIDE)
    assert (outage.arrivals, due_again.arrivals) == (0, 0)
    assert due_again.wanted == 1


def test_a_purge_does_not_hide_what_arrives_afterwards() -> None:
    before = size(backlog=1_000_000, arrivals=5.0, seconds=0.2)
    purged = measure(before, later(before, backlog=0), ONE_SLOT, WIDE)
    assert purged.arrivals == 0
    assert measure(purged, later(purged, settled=100, busy_seconds=20.0), ONE_SLOT, WIDE).arrivals > 0.5


def test_bounds_are_those_of_the_queue_and_one_that_is_impossible_is_refused() -> None:
    assert bounds_of("data", {}, {}) == Bounds(1, 16)
    assert bounds_of("data", {"data": 20}, {"other": 3}) == Bounds(20, 20)
    assert bounds_of("data", {"other": 0}, {"data": 3}) == Bounds(1, 3)
    with pytest.raises(BadSettings, match=r"PENSTOCK_LEAST_WORKERS: data has 5, and PENSTOCK_MOST_WORKERS only 3"):
        bounds_of("data", {"data": 5}, {"data": 3})
