"""How plans trust site queues: ramp-up, dead and full ones, pilots that hang, nested limits, jobs of many nodes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from executors.pilots.planning.decide import PlanRules, plan
from pipeline.store.provisioning_rows import History, LivePilot, Past
from schemas.states import PilotState
from tests.unit.executors.plan_ground import (
    NOW,
    busy,
    cap,
    demand,
    only,
    pilot,
    requested,
    requests,
    room,
    running,
    situation,
)

RULES = PlanRules()
WIDE = {"max_pilots": 1_000, "max_pending_pilots": 1_000, "max_submissions": 1_000}
MANY = [demand(5_000)]


def test_a_queue_of_which_nothing_is_known_gets_a_few_pilots() -> None:
    assert requested([room(1, **WIDE)], MANY, history={}) == {(1, 1): RULES.probes}
    waiting = [pilot(number, 1) for number in range(RULES.probes)]
    assert requested([room(1, **WIDE)], MANY, waiting, history={}) == {}


def test_a_queue_that_starts_pilots_gets_all_that_it_may_within_a_few_cycles() -> None:
    started, rounds = 0, 0
    while started < 1_000:
        live = [busy(number, 1) for number in range(started)]
        made = requested([room(1, **WIDE)], MANY, live, history={1: History(started, started, 0, 60.0)})
        started, rounds = started + made.get((1, 1), 0), rounds + 1
    assert rounds <= 5


def test_of_queues_with_the_same_room_the_one_that_starts_pilots_soonest_comes_first() -> None:
    rooms, history = [room(1, **WIDE), room(2, **WIDE)], {1: History(50, 50, 0, 60.0), 2: History(50, 50, 0, 600.0)}
    assert requested(rooms, [demand(1)], history=history) == {(1, 1): 1}
    made = requested(rooms, [demand(110)], history=history)
    assert 50 < made[1, 1] < 65
    assert sum(made.values()) == 110


def test_a_queue_whose_pilots_wait_for_hours_gets_little() -> None:
    history = {1: History(50, 50, 0, 60.0), 2: History(50, 50, 0, 9 * RULES.near)}
    assert requested([room(1, **WIDE), room(2, **WIDE)], [demand(110)], history=history) == {(1, 1): 100, (2, 1): 10}


def test_fast_queues_keep_some_room_for_a_burst_while_slower_ones_have_more() -> None:
    rooms = [room(1, **{**WIDE, "max_pilots": 50}), room(2, **{**WIDE, "max_pilots": 100})]
    history = {1: History(50, 50, 0, 60.0), 2: History(50, 50, 0, 600.0)}
    live: list[LivePilot] = []
    number = 0
    for _ in range(60):  # jobs that come one by one
        for (queue, _), count in requested(rooms, [demand(1)], live, history=history).items():
            live += [busy(number + nth, queue) for nth in range(count)]
            number += count
    on_fast = sum(one.site_queue_id == 1 for one in live)
    assert number == 60
    assert 5 <= on_fast <= 25


def test_where_pilots_wait_in_queues_more_are_requested_than_jobs_wait_and_taken_back_when_these_have_begun() -> None:
    slow, hedged = {1: History(50, 50, 0, 600.0)}, int(10 * RULES.hedge)
    assert requested([room(1, **WIDE)], [demand(10)], history=slow) == {(1, 1): hedged}
    waiting = [pilot(number, 1, age=60.0) for number in range(hedged)]
    order = only([room(1, **WIDE)], [demand(10)], waiting, history=slow)
    assert (order.request, order.low_cycles) == (0, 0)
    begun = [*(busy(number, 1) for number in range(10)), *waiting[10:]]
    assert only([room(1, **WIDE)], [], begun, history=slow).low_cycles == 1


def test_queues_whose_pilots_fail_to_start_get_less() -> None:
    history = {1: History(50, 50, 0, 60.0), 2: History(50, 10, 40, 60.0)}
    made = requested([room(1, **WIDE), room(2, **WIDE)], [demand(120)], history=history)
    assert made == {(1, 1): 116, (2, 1): 4}


def test_a_dead_queue_gets_one_probe_and_then_none_for_ever_longer() -> None:
    waits = []
    for stillborn in (1, 2, 4, 20):
        order = only([room(1, **WIDE)], MANY, history={1: History(stillborn, 0, stillborn)})
        assert order.request == 1
        assert order.hold_until is not None
        assert "failed to start" in order.why
        waits.append((order.hold_until - NOW).total_seconds())
    assert waits == [120.0, 240.0, 960.0, RULES.longest_hold]


def test_a_dead_queue_is_held_off_until_its_time_and_is_trusted_again_when_a_pilot_starts() -> None:
    dead = {1: History(3, 0, 3)}
    until = NOW + timedelta(minutes=5)
    now = replace(situation([room(1, **WIDE)], MANY, history=dead), past={(1, 1): Past(0, until)})
    (order,) = plan(now).orders
    assert (order.request, order.hold_until) == (0, until)
    assert "held off until 00:05:00" in order.why
    assert requests(plan(replace(now, past={(1, 1): Past(0, NOW)}))) == {(1, 1): 1}
    (order,) = plan(replace(now, history={1: History(4, 1, 3, 60.0)})).orders
    assert order.request > 1
    assert order.hold_until is None


def test_a_pilot_that_hangs_is_not_counted_on_but_nothing_is_put_behind_it() -> None:
    slow, other = room(1, **WIDE), room(2, **WIDE)
    hangs = [pilot(number, 1, age=3_600.0) for number in range(4)]
    history = {1: History(50, 50, 0, 60.0, moved=10.0), 2: History(50, 50, 0, 60.0)}
    made = requested([slow, other], [demand(4)], hangs, history=history)
    assert made == {(2, 1): 2}
    assert requested([slow], [demand(4)], hangs, history=history) == {}
    assert requested([slow], [demand(6)], hangs, history=history) == {(1, 1): 2}


def test_held_pilots_are_not_counted_on() -> None:
    held = pilot(1, 1, state=PilotState.HELD)
    assert requested([room(1), room(2)], [demand(1)], [held], history={2: History(9, 9, 0, 60.0)}) == {(2, 1): 1}


def test_a_queue_in_which_nothing_moves_is_full_and_gets_no_more_than_a_probe() -> None:
    full = {1: History(50, 50, 0, 60.0, moved=900.0, vain=600.0)}
    live = [busy(number, 1) for number in range(5)]
    order = only([room(1, **WIDE)], MANY, live, history=full)
    assert order.request == 1
    assert "seems to be full" in order.why
    assert only([room(1, **WIDE)], MANY, [*live, pilot(9, 1)], history=full).request == 0
    slow = {1: History(50, 50, 0, 60.0, moved=900.0, vain=240.0)}  # nothing rare for one pilot
    assert only([room(1, **WIDE)], MANY, live, history=slow).request == 200
    moves = {1: History(50, 50, 0, 60.0, moved=5.0)}
    assert only([room(1, **WIDE)], MANY, live, history=moves).request == 200


def test_every_limit_holds_over_all_that_it_covers() -> None:
    rooms = [room(1, **WIDE), room(2, **WIDE, site=2), room(3, vo=2, **WIDE)]
    wants = [demand(500), demand(500, vo=2)]
    live = [busy(1, 1), pilot(2, 1, leaves=True), busy(3, 2), pilot(4, 3, 2)]
    assert sum(requested(rooms, wants, live, caps=[cap(max_pilots=10)]).values()) == 6
    assert sum(requested(rooms, wants, live, caps=[cap(max_pending_pilots=10)]).values()) == 8
    assert sum(requested(rooms, wants, live, caps=[cap(max_submissions=5)]).values()) == 5
    of_site = requested(rooms, wants, live, caps=[cap(queues=[1, 3], max_pilots=10)])
    assert (of_site[1, 1] + of_site[3, 2], of_site[2, 1] > 10) == (7, True)
    of_vo = requested(rooms, wants, live, caps=[cap(vo=1, max_pilots=5)])
    assert (of_vo[1, 1] + of_vo.get((2, 1), 0), of_vo[3, 2] > 10) == (2, True)


def test_from_so_many_held_pilots_on_nothing_new_is_requested_under_that_limit() -> None:
    held = [pilot(number, 1, state=PilotState.HELD) for number in range(3)]
    rooms = [room(1, **WIDE), room(2, **WIDE)]
    assert requested(rooms, MANY, held, caps=[cap(max_held_pilots=3)]) == {}
    assert (1, 1) in requested(rooms, MANY, held, caps=[cap(max_held_pilots=4)])
    assert set(requested([room(1, **WIDE, max_held_pilots=3), rooms[1]], MANY, held)) == {(2, 1)}


def test_a_meta_sites_members_share_its_limits_and_its_demand() -> None:
    rooms = [room(1, **WIDE), room(2, **WIDE), room(3, **WIDE)]
    made = requested(rooms, MANY, caps=[cap("meta-site M", queues=[1, 2], max_pending_pilots=20)])
    assert made[1, 1] + made[2, 1] == 20
    assert made[3, 1] > 20


def test_a_queues_submissions_in_a_cycle_are_limited() -> None:
    assert requested([room(1, **{**WIDE, "max_submissions": 7})], MANY) == {(1, 1): 7}


def test_the_reason_names_the_limit_that_is_reached() -> None:
    assert "the limits of site S" in only([room(1, **WIDE)], MANY, caps=[cap("site S", max_pilots=0)]).why
    assert "its own limits" in only([room(1, max_pilots=0)], MANY).why


def test_pilots_of_many_nodes_come_in_whole_batch_jobs_within_the_limits() -> None:
    many = room(1, nodes=4, **WIDE)
    assert requested([many], [demand(1)]) == {(1, 1): 4}
    assert requested([many], [demand(9)]) == {(1, 1): 12}
    assert requested([many], [demand(9)], caps=[cap(max_pilots=10)]) == {(1, 1): 8}
    assert requested([many], [demand(9)], caps=[cap(max_pilots=3)]) == {}


def test_the_other_nodes_of_a_batch_job_take_what_else_waits() -> None:
    many = room(1, nodes=4, **WIDE)
    assert requested([many], [demand(1), demand(3, memory=2_000)]) == {(1, 1): 4}


def test_jobs_of_different_kinds_share_a_new_pilot() -> None:
    wants = [demand(1, memory=1_000 + number) for number in range(8)]
    assert requested([room(1, cores=8, memory=64_000)], wants) == {(1, 1): 1}


def test_free_slots_that_no_job_can_take_are_not_counted() -> None:
    wide = room(1, cores=4, memory=16_384)
    narrow = [running(number, 1, cores=2) for number in (1, 2)]
    assert requested([wide], [demand(1, cores=4)], narrow) == {(1, 1): 1}
    ending = running(1, 1, cores=4, lasts=600.0)
    assert requested([wide], [demand(1, cores=4, wall_time=3_600)], [ending]) == {(1, 1): 1}
    assert requested([wide], [demand(1, cores=4, wall_time=300)], [ending]) == {}


def test_jobs_that_running_pilots_will_take_before_a_new_one_could_come_want_none() -> None:
    ends_soon = [busy(number, 1, recent_jobs=1) for number in range(60)]
    wide = room(1, **{**WIDE, "removal_margin": 0})
    assert requested([wide], [demand(5)], ends_soon) == {}
    assert requested([wide], [demand(50)], ends_soon) == {(1, 1): 44}
    new_ones = [busy(number, 1, recent_jobs=1, up=100.0) for number in range(30)]
    assert requested([wide], [demand(5)], new_ones) == {(1, 1): 5}


def test_a_banned_queues_pilots_are_counted_for_nothing() -> None:
    banned = replace(room(1, closed="is banned"), banned=True)
    live = [pilot(1, 1), running(2, 1)]
    assert requested([banned, room(2)], [demand(2)], live) == {(2, 1): 2}
    order = plan(situation([banned], [demand(2)], live, low=1)).orders[0]
    assert (order.remove, order.drain) == ((1,), (2,))
