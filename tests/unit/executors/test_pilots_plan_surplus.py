"""Which pilots plans let go, and which they keep."""

from __future__ import annotations

from typing import Any

import pytest

from executors.pilots.planning.decide import PlanRules, plan
from pipeline.store.provisioning_rows import History, LivePilot
from schemas.states import PilotState
from tests.unit.executors.plan_ground import busy, demand, only, pilot, room, running, situation

RULES = PlanRules()
WIDE = {"max_pilots": 1_000, "max_pending_pilots": 1_000}


def test_nothing_goes_on_the_first_low_reading() -> None:
    order = only([room(1)], (), [pilot(1, 1), running(2, 1)])
    assert (order.remove, order.drain, order.low_cycles) == ((), (), 1)


def test_nothing_goes_on_an_unsure_reading_and_it_counts_for_nothing() -> None:
    for low in (0, 1, 7):
        order = only([room(1)], (), [pilot(1, 1), running(2, 1)], is_sure=False, low=low)
        assert (order.remove, order.drain, order.low_cycles) == ((), (), low)


def test_when_the_work_is_gone_so_are_the_pilots_from_the_second_low_reading_on() -> None:
    live = [pilot(1, 1), pilot(2, 1, state=PilotState.REQUESTED), running(3, 1), running(4, 1)]
    order = only([room(1, removal_margin=1.0)], (), live, low=1)
    assert (order.remove, order.drain, order.low_cycles, order.wanted) == ((1, 2), (3, 4), 2, 0)
    assert "no job waits" in order.why


def test_a_pilot_that_has_just_become_idle_is_not_drained_yet() -> None:
    live = [running(1, 1, idle_cycles=1), running(2, 1)]
    assert only([room(1)], (), live, low=5).drain == (2,)


def test_demand_ends_the_row_of_low_readings() -> None:
    order = only([room(1)], [demand(2)], [pilot(1, 1), running(2, 1)], low=1)
    assert (order.remove, order.drain, order.low_cycles, order.wanted) == ((), (), 0, 2)


def test_surplus_pending_pilots_go_by_halves_while_jobs_wait_the_youngest_first() -> None:
    live = [pilot(number, 1, age=float(number)) for number in range(1, 11)]
    order = only([room(1, **WIDE)], [demand(2)], live, low=1)
    assert order.remove == (1, 2, 3, 4)
    assert only([room(1, **WIDE)], [demand(9)], live[:10], low=1).remove == (1,)


def test_held_pilots_and_those_that_were_not_submitted_go_first() -> None:
    live = [
        pilot(1, 1, age=900.0, state=PilotState.HELD),
        pilot(2, 1, age=5.0),
        pilot(3, 1, age=800.0, state=PilotState.REQUESTED),
        pilot(4, 1, age=100.0),
    ]
    assert only([room(1, **WIDE)], [demand(1)], live, low=1).remove == (1, 3)


def test_the_queues_margin_may_stand_idle_while_jobs_wait() -> None:
    live = [*(busy(number, 1) for number in range(10)), running(11, 1, cores=0), running(12, 1, cores=0)]
    wants = [demand(1, cores=2)]
    wide = room(1, cores=2, closed="backs off", **WIDE)
    assert only([wide], wants, live, low=1).drain == (11,)
    generous = room(1, cores=2, closed="backs off", **WIDE, removal_margin=0.2)
    assert only([generous], wants, live, low=1).drain == ()


def test_while_no_job_waits_only_as_many_stay_as_lately_began() -> None:
    calm = [busy(number, 1) for number in range(20)]
    lively = [busy(number, 1, recent_jobs=int(number < 5)) for number in range(20)]
    idle = [running(90, 1), running(91, 1)]
    wide = room(1, **WIDE)
    assert only([wide], (), [*calm, *idle], low=1).drain == (90, 91)
    assert only([wide], (), [*lively, *idle], low=1).drain == (90,)


@pytest.mark.parametrize(
    ("mode", "remove", "drain"),
    [("none", (), ()), ("pending", (1,), ()), ("idle", (1,), (2,)), ("all", (1,), (2, 3))],
)
def test_each_mode_lets_more_go(mode: str, remove: tuple[int, ...], drain: tuple[int, ...]) -> None:
    live = [pilot(1, 1), running(2, 1), busy(3, 1)]
    order = only([room(1, removal=mode)], (), live, low=RULES.long_cycles)
    assert (order.remove, order.drain) == (remove, drain)


def test_busy_pilots_drain_only_after_long_without_demand() -> None:
    live = [busy(1, 1)]
    assert only([room(1, removal="all")], (), live, low=RULES.long_cycles - 2).drain == ()
    assert only([room(1, removal="all")], (), live, low=RULES.long_cycles - 1).drain == (1,)
    assert only([room(1, removal="all")], [demand(1, cores=9)], live, low=RULES.long_cycles - 1).drain == (1,)
    assert only([room(1, removal="all")], [demand(1)], live, low=RULES.long_cycles - 1).drain == ()


def test_pilots_that_leave_already_are_left_alone() -> None:
    live = [pilot(1, 1, leaves=True), running(2, 1, leaves=True)]
    order = only([room(1)], (), live, low=5)
    assert (order.remove, order.drain, order.low_cycles) == ((), (), 0)


def test_a_place_that_gets_new_pilots_loses_none() -> None:
    unusable = [running(number, 1, lasts=60.0) for number in range(5)]
    order = only([room(1)], [demand(3)], unusable, low=5)
    assert (order.request, order.remove, order.drain) == (3, (), ())


def _batch(*ids: int, **values: Any) -> list[LivePilot]:
    return [pilot(number, 1, batch_id=f"77_{ids[0]}.{number}", **values) for number in ids]


def test_pilots_of_many_nodes_go_as_whole_batch_jobs() -> None:
    wide = room(1, nodes=2, **WIDE)
    live = [*_batch(1, 2, age=50.0), *_batch(3, 4, age=20.0), *_batch(5, 6, age=10.0)]
    assert only([wide], [demand(2)], live, low=1).remove == (5, 6)
    assert only([wide], [demand(5)], live, low=1).remove == ()
    assert only([wide], (), live, low=1).remove == (1, 2, 3, 4, 5, 6)


def test_a_batch_job_is_drained_when_all_of_its_nodes_are_idle() -> None:
    wide = room(1, nodes=2, **WIDE)
    first = [running(1, 1, batch_id="9.0"), busy(2, 1, batch_id="9.1")]
    second = [running(3, 1, batch_id="10.0"), running(4, 1, batch_id="10.1")]
    assert only([wide], (), [*first, *second], low=1).drain == (3, 4)
    alone = running(5, 1, batch_id="11.0")  # the other node's pilot has ended
    assert only([wide], (), [*first, alone], low=1).drain == (5,)


def test_pending_pilots_of_places_that_are_declared_no_more_go_at_once() -> None:
    live = [pilot(1, 1), running(2, 1), pilot(3, 1, leaves=True), pilot(4, 2)]
    made = plan(situation([room(2)], [demand(9)], live, is_sure=False))
    assert made.strays == (1,)


def test_pending_pilots_of_a_slow_queue_go_slowly_while_the_vo_has_jobs() -> None:
    slow = {1: History(50, 50, 0, 240.0)}
    live = [busy(99, 1), *(pilot(number, 1) for number in range(8))]
    gone = [len(only([room(1, **WIDE)], (), live, low=low, history=slow).remove) for low in range(1, 14)]
    assert gone == [4, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 4]
    assert len(only([room(1, **WIDE)], (), live[1:], low=2, history=slow).remove) == 8
