"""What holds of every plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from executors.pilots.planning.decide import PlanRules, plan
from pipeline.store.provisioning_rows import (
    Cap,
    Demand,
    History,
    LivePilot,
    Past,
    Place,
    Room,
    Situation,
)
from schemas.sites import PilotCaps
from schemas.states import PILOT_LIVE, PILOT_PENDING, PilotState
from tests.unit.executors.plan_ground import busy, cap, demand, pilot, room, running, situation

QUEUES = (1, 2, 3)
RULES = PlanRules()

caps = st.builds(
    PilotCaps,
    max_pilots=st.none() | st.integers(0, 12),
    max_pending_pilots=st.none() | st.integers(0, 8),
    max_held_pilots=st.none() | st.integers(1, 3),
    max_submissions=st.none() | st.integers(1, 6),
)
nested = st.lists(
    st.builds(
        lambda limits, queues, vo: Cap("a limit", limits, queues, vo),
        caps,
        st.none() | st.frozensets(st.sampled_from(QUEUES), min_size=1),
        st.none() | st.sampled_from((1, 2)),
    ),
    max_size=4,
)
entries = st.fixed_dictionaries(
    {
        "cores": st.integers(1, 8),
        "max_pilots": st.integers(0, 12),
        "max_pending_pilots": st.integers(0, 8),
        "max_submissions": st.integers(1, 8),
        "nodes": st.integers(1, 3),
        "removal_margin": st.sampled_from((0.0, 0.1, 1.0)),
        "removal": st.sampled_from(("none", "pending", "idle", "all")),
    }
)
demands = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 2), st.integers(1, 4)).map(
        lambda one: demand(one[0], one[1], cores=one[2])
    ),
    max_size=5,
)
histories = st.builds(
    History,
    submitted=st.integers(0, 9),
    started=st.integers(0, 9),
    stillborn=st.integers(0, 9),
    queue_time=st.none() | st.floats(0, 5_000),
    moved=st.none() | st.floats(0, 5_000),
    vain=st.floats(0, 5_000),
)


@st.composite
def live_pilots(draw: st.DrawFn) -> list[LivePilot]:
    """Up to ten, of all states, at queues of which one may be declared no more."""
    found = []
    for number in range(1, draw(st.integers(0, 10)) + 1):
        queue, vo = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        state = draw(st.sampled_from(PILOT_LIVE))
        jobs = draw(st.integers(0, 2)) if state is PilotState.RUNNING else 0
        if state in PILOT_PENDING:
            one = pilot(number, queue, vo, state=state, age=draw(st.floats(0, 9_000)))
        else:
            one = running(number, queue, vo, state=state, jobs=jobs, idle_cycles=draw(st.integers(0, 3)))
        found.append(replace(one, leaves=draw(st.booleans()) or state in LEAVING))
    return found


LEAVING = (PilotState.DRAINING, PilotState.LOST)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Three queues for two VOs."""
    rooms = []
    for queue in QUEUES:
        entry = draw(entries)
        for vo in (1, 2):
            closed = draw(st.sampled_from(("", "", "backs off")))
            rooms.append(room(queue, vo, memory=99_999, disk=99_999, closed=closed, **entry))
    made = situation(
        rooms,
        draw(demands),
        draw(live_pilots()),
        is_sure=draw(st.booleans()),
        history={queue: draw(histories) for queue in QUEUES if draw(st.booleans())},
        caps=draw(nested),
    )
    return replace(made, past={one.place: Past(draw(st.integers(0, 40))) for one in rooms})


def _added(now: Situation) -> Counter[Place]:
    return Counter({order.room.place: order.request for order in plan(now).orders})


@settings(max_examples=40)
@given(situations())
def test_no_limit_is_exceeded_by_what_a_plan_adds(now: Situation) -> None:
    added = _added(now)
    for limit in (*now.caps, *map(_own, now.rooms)):
        new = sum(many for place, many in added.items() if limit.covers(place))
        there = [one for one in now.pilots if limit.covers(one.place)]
        pending = sum(one.state in PILOT_PENDING for one in there)
        held = sum(one.state is PilotState.HELD for one in there)
        most = limit.limits
        if new:
            assert most.max_pilots is None or len(there) + new <= most.max_pilots
            assert most.max_pending_pilots is None or pending + new <= most.max_pending_pilots
            assert most.max_submissions is None or new <= most.max_submissions
            assert most.max_held_pilots is None or not held or held < most.max_held_pilots


def _own(one: Room) -> Cap:
    said = {name: getattr(one.entry, name) for name in PilotCaps.model_fields}
    return Cap("its own", PilotCaps(**said), frozenset({one.site_queue_id}))


@settings(max_examples=40)
@given(situations())
def test_no_place_gets_and_loses_pilots_in_one_cycle_and_all_come_and_go_in_whole_batch_jobs(now: Situation) -> None:
    for order in plan(now).orders:
        assert not order.request or not (order.remove or order.drain)
        assert order.request % order.room.entry.nodes == 0
        assert not order.request or not order.room.closed
        assert order.why


@settings(max_examples=40)
@given(situations())
def test_nothing_goes_when_unsure_or_on_the_first_low_reading(now: Situation) -> None:
    for order in plan(now).orders:
        before = now.past[order.room.place].low_cycles
        if order.remove or order.drain:
            assert now.reading.is_sure
            assert before >= 1
        assert now.reading.is_sure or order.low_cycles == before


@settings(max_examples=40)
@given(situations())
def test_only_pending_pilots_of_the_place_are_removed_and_only_running_ones_drained(now: Situation) -> None:
    by_id = {one.id: one for one in now.pilots}
    for order in plan(now).orders:
        for some, states in ((order.remove, PILOT_PENDING), (order.drain, {PilotState.RUNNING})):
            assert len(set(some)) == len(some)
            for one in map(by_id.__getitem__, some):
                assert (one.place, one.leaves) == (order.room.place, False)
                assert one.state in states


@settings(max_examples=40)
@given(situations(), st.integers(1, 30))
def test_more_of_the_same_demand_never_means_fewer_pilots_in_all(now: Situation, more: int) -> None:
    one_vo = [one for one in now.reading.demand if one.vo_id == 1][:1]
    alone = replace(now, rooms=tuple(one for one in now.rooms if one.vo_id == 1))
    less = replace(alone, reading=replace(now.reading, demand=tuple(one_vo)))
    grown = tuple(replace(one, jobs=one.jobs + more) for one in one_vo)
    assert sum(_added(replace(less, reading=replace(now.reading, demand=grown))).values()) >= sum(_added(less).values())


@settings(max_examples=40)
@given(situations())
def test_without_demand_all_idle_pilots_are_drained_by_the_second_low_reading(now: Situation) -> None:
    calm = [replace(one, recent_jobs=0) for one in now.pilots]
    quiet = replace(now, reading=replace(now.reading, demand=(), is_sure=True), pilots=tuple(calm))
    quiet = replace(quiet, past={one.place: Past(1) for one in now.rooms})
    for order in plan(quiet).orders:
        idle = {one.id for one in calm if _is_ready(one) and one.place == order.room.place}
        if order.room.entry.removal in {"idle", "all"} and order.room.entry.nodes == 1:
            assert idle <= set(order.drain)


def _is_ready(one: LivePilot) -> bool:
    return one.state is PilotState.RUNNING and not one.leaves and not one.jobs and one.idle_cycles >= 2


@settings(max_examples=40)
@given(st.integers(0, 30), st.integers(1, 3), st.sampled_from((0.0, 0.1, 0.5)))
def test_steady_demand_comes_to_rest(jobs: int, cores: int, margin: float) -> None:
    """Pilots start at once and jobs never end: from some cycle on nothing is requested, and nothing goes."""
    rooms = [room(queue, cores=cores, memory=99_999, removal_margin=margin) for queue in QUEUES]
    live: list[LivePilot] = []
    past: dict[Place, Past] = {}
    waiting, quiet = jobs, 0
    for _ in range(30):
        waiting, live = _match(waiting, live)
        wants: Sequence[Demand] = [demand(waiting)] if waiting else []
        made = plan(replace(situation(rooms, wants, live), past=past))
        past = {order.room.place: Past(order.low_cycles, order.hold_until) for order in made.orders}
        moved = False
        for order in made.orders:
            first = max((one.id for one in live), default=0) + 1
            gone = {*order.remove, *order.drain}
            live = [one for one in live if one.id not in gone]
            live += [
                running(first + n, order.room.site_queue_id, cores=cores, memory=99_999, idle_cycles=0)
                for n in range(order.request)
            ]
            moved |= bool(gone or order.request)
        quiet = 0 if moved else quiet + 1
    assert quiet >= 10
    assert not waiting or len(live) == 30
    assert (len(live) - 1) * cores < jobs or not live


def _match(waiting: int, live: Sequence[LivePilot]) -> tuple[int, list[LivePilot]]:
    """Waiting jobs take what is free, for ever."""
    found = []
    for one in live:
        taken = min(waiting, one.cores)
        waiting -= taken
        jobs = one.jobs + taken
        found.append(replace(one, cores=one.cores - taken, jobs=jobs, idle_cycles=0 if jobs else one.idle_cycles + 1))
    return waiting, found


def test_bursts_do_not_make_one_place_request_what_it_has_just_removed() -> None:
    """Demand that comes and goes within a cycle moves nothing back and forth."""
    live = [pilot(number, 1, age=30.0) for number in range(10)]
    past: dict[Place, Past] = {}
    moves = 0
    for cycle in range(20):
        wants = [demand(10)] if cycle % 2 else []
        made = plan(replace(situation([room(1)], wants, live), past=past))
        past = {order.room.place: Past(order.low_cycles) for order in made.orders}
        moves += sum(order.request + len(order.remove) for order in made.orders)
    assert moves == 0


def test_a_plan_is_the_same_each_time() -> None:
    live = [busy(1, 1), pilot(2, 2), running(3, 3)]
    now = situation([room(queue) for queue in QUEUES], [demand(7), demand(3, cores=2)], live, caps=[cap(max_pilots=9)])
    assert plan(now) == plan(now)


def test_a_hedge_that_fills_its_queue_comes_to_rest() -> None:
    slow = {1: History(50, 50, 0, 600.0, moved=30.0)}
    live: list[LivePilot] = []
    past: dict[Place, Past] = {}
    for cycle in range(20):
        live = [replace(one, age=one.age + 20) for one in live]
        narrow = room(1, max_pilots=20, max_pending_pilots=20)
        (order,) = plan(replace(situation([narrow], [demand(10)], live, history=slow), past=past)).orders
        assert (order.request, order.remove) == (0 if cycle else 20, ())
        past = {order.room.place: Past(order.low_cycles)}
        live += [pilot(number, 1, age=0.0) for number in range(order.request)]
