"""Who gets what: shares come out as configured, nobody starves, order within an owner is priority and then age."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest

from executors.matching.fair_share import Entitlements
from executors.matching.rounds import Nodes, Rules
from pipeline.store.match_rows import LimitRow, Selector, StartRate
from schemas.requirements import Requirement
from schemas.rooms import Room
from tests.unit.executors.matching_ground import NOW, Farm, Queue, level_of, slot_of

HOUR = 3_600
PLENTY = 30_000
MATCHES = 10_000
"""After which shares must be as configured, within 2 %."""


def _run(farm: Farm, cores: int, slots_per_round: int) -> Counter[int]:
    """Jobs by group, after so many matches or a little more."""
    jobs: Counter[int] = Counter()
    pilot_ids = count(1)
    while jobs.total() < MATCHES:
        outcome = farm.round([slot_of(next(pilot_ids), cores) for _ in range(slots_per_round)])
        assert outcome.matches
        jobs.update(found.level.group_id for found in outcome.matches)
    return jobs


@pytest.mark.parametrize("cores", [8, 64], ids=lambda cores: f"{cores}-cores")
def test_two_groups_with_equal_demand_get_three_to_one(cores: int) -> None:
    wants = Requirement(wall_time=HOUR, memory=1_000)
    queue = Queue({level_of(n, wants, group=n, owner=n): PLENTY for n in (1, 2)})
    jobs = _run(Farm(queue, Entitlements(groups={1: 3.0})), cores, 10)
    assert jobs[1] / jobs[2] == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize("cores", [8, 64], ids=lambda cores: f"{cores}-cores")
def test_unequal_jobs_are_shared_by_core_seconds(cores: int) -> None:
    queue = Queue(
        {
            level_of(1, Requirement(wall_time=7 * HOUR, memory=1_000), group=1): PLENTY,
            level_of(2, Requirement(wall_time=HOUR, cores=4, memory=1_000), group=2): PLENTY,
        }
    )
    farm = Farm(queue, Entitlements(groups={1: 3.0}))
    _run(farm, cores, 10)
    assert farm.used[1, 1] / farm.used[2, 1] == pytest.approx(3, rel=0.02)


def test_owners_share_what_their_group_gets() -> None:
    wants = Requirement(wall_time=HOUR, memory=1_000)
    people = {(1, 1): 1, (1, 2): 2, (2, 3): 1, (2, 4): 1}
    queue = Queue(
        {level_of(n, wants, group=key[0], owner=key[1]): PLENTY for n, key in enumerate(people, 1)},
    )
    farm = Farm(queue, Entitlements(groups={1: 3.0}, owners={(1, 2): 2.0}))
    _run(farm, 8, 10)
    total = sum(farm.used.values())
    expected = {(1, 1): 1 / 4, (1, 2): 1 / 2, (2, 3): 1 / 8, (2, 4): 1 / 8}
    for key, part in expected.items():
        assert farm.used[key] / total == pytest.approx(part, rel=0.02)


def test_a_group_without_work_leaves_its_share_to_the_others() -> None:
    wants = Requirement(wall_time=HOUR)
    queue = Queue({level_of(1, wants, group=1): 3, level_of(2, wants, group=2): 100})
    outcome = Farm(queue, Entitlements(groups={1: 1_000.0})).round([slot_of(n) for n in range(1, 4)])
    assert Counter(found.level.group_id for found in outcome.matches) == {1: 3, 2: 21}


def test_a_tiny_share_gets_its_job_in_bounded_rounds() -> None:
    wants = Requirement(wall_time=HOUR)
    queue = Queue({level_of(1, wants, group=1): PLENTY, level_of(2, wants, group=2): 2})
    farm = Farm(queue, Entitlements(groups={1: 100.0, 2: 1.0}))
    farm.used[2, 1] = 1.0 * HOUR
    rounds = 0
    while len(queue.jobs[2, 0]) == 2:
        farm.round([slot_of(1)])
        rounds += 1
    assert rounds <= 100 / 8 + 1


def test_priority_comes_before_age_and_age_before_the_order_of_autoclusters() -> None:
    wants = Requirement()
    queue = Queue(
        {
            level_of(1, wants, head=500): 3,
            level_of(2, wants, head=100): 2,
            level_of(3, wants, head=900, priority=1): 1,
            level_of(3, wants, head=50, priority=-1): 9,
        }
    )
    outcome = Farm(queue).round([slot_of(1)])
    assert [found.job.id for found in outcome.matches] == [900, 100, 101, 500, 501, 502, 50, 51]


def test_jobs_of_equal_levels_go_by_age_even_where_their_ids_alternate() -> None:
    wants = Requirement()
    levels = {level_of(n, wants, head=n): 4 for n in (1, 2)}
    queue = Queue(levels)
    queue.jobs = {(1, 0): [1, 3, 5, 7], (2, 0): [2, 4, 6, 8]}
    outcome = Farm(queue).round([slot_of(1)])
    assert [found.job.id for found in outcome.matches] == list(range(1, 9))


def test_wide_jobs_come_before_narrow_ones_of_their_priority_and_the_rest_of_the_node_is_filled() -> None:
    queue = Queue(
        {
            level_of(1, Requirement(cores=1)): 20,
            level_of(2, Requirement(cores=8)): 1,
            level_of(3, Requirement(cores=4)): 1,
            level_of(4, Requirement(cores=64)): 1,
        }
    )
    outcome = Farm(queue).round([slot_of(1, 16)])
    assert [found.grant.cores for found in outcome.matches] == [8, 4, 1, 1, 1, 1]


def test_a_low_priority_job_that_waits_far_too_long_overtakes_but_only_for_a_part() -> None:
    wants = Requirement(wall_time=HOUR)
    queue = Queue(
        {
            level_of(1, wants, priority=9): PLENTY,
            level_of(2, wants, waited=90_000.0): 100,
        }
    )
    outcome = Farm(queue).round([slot_of(n) for n in range(1, 6)])
    by_priority = Counter(found.level.priority for found in outcome.matches)
    assert outcome.matches[0].level.autocluster_id == 2
    assert 5 <= by_priority[0] <= 10
    assert by_priority.total() == 40


def test_a_low_priority_job_behind_a_high_level_of_its_own_autocluster_is_found_when_that_is_drained() -> None:
    wants = Requirement()
    high, low = level_of(1, wants, priority=5), level_of(1, wants, priority=-5, head=7)
    queue = Queue({high: 2, low: 2})
    farm = Farm(queue)
    farm.board.drop(1, -5)
    outcome = farm.round([slot_of(1, 3)])
    assert [found.job.id for found in outcome.matches] == [high.head_job_id, high.head_job_id + 1, 7]
    assert outcome.drained == {(1, 5)}
    assert [level.head_job_id for level in outcome.lower] == [8]


def _narrow_and_wide(waited: float) -> Queue:
    return Queue(
        {
            level_of(1, Requirement(cores=1, wall_time=HOUR), priority=5): PLENTY,
            level_of(2, Requirement(cores=8, wall_time=HOUR), waited=waited): 1,
        }
    )


def test_a_wide_job_that_waits_too_long_goes_first_where_it_fits_whole() -> None:
    outcome = Farm(_narrow_and_wide(2_000.0)).round([slot_of(1)])
    assert [found.grant.cores for found in outcome.matches] == [8]


def test_narrow_jobs_of_higher_priority_go_on_while_no_wide_one_waits_too_long() -> None:
    farm = Farm(_narrow_and_wide(1_000.0))
    outcome = farm.round([slot_of(1), slot_of(2, free=Room(3, 6_000, 30_000))])
    assert [found.grant.cores for found in outcome.matches] == [1] * 11
    assert not outcome.reservations


def test_a_wide_job_among_endless_narrow_ones_gets_a_node_in_bounded_rounds() -> None:
    """Each round, one job of each of three nodes has ended."""
    farm = Farm(_narrow_and_wide(2_000.0), nodes=Nodes(3))
    busy = dict.fromkeys((1, 2, 3), 7)
    kept: dict[int, int | None] = {}
    for _ in range(8):
        farm.nodes = Nodes(3, Counter(number for number in kept.values() if number is not None))
        slots = [
            slot_of(pilot_id, free=Room(8 - taken, 16_000, 80_000), reserved_for=kept.get(pilot_id))
            for pilot_id, taken in busy.items()
        ]
        outcome = farm.round(slots)
        kept |= outcome.reservations
        if any(found.grant.cores == 8 for found in outcome.matches):
            break
        assert sum(autocluster_id is not None for autocluster_id in kept.values()) == 1
        started = Counter(found.place.pilot_id for found in outcome.matches)
        busy = {pilot_id: max(taken + started[pilot_id] - 1, 0) for pilot_id, taken in busy.items()}
    else:
        pytest.fail("the wide job was never matched")
    assert set(kept.values()) == {None}


def test_an_owner_of_wide_jobs_alone_gets_node_after_node_among_endless_narrow_ones_of_another() -> None:
    """Each round, one narrow job of each of three nodes ends, or the wide one that fills it."""
    queue = Queue(
        {
            level_of(1, Requirement(cores=1, wall_time=HOUR), owner=1): PLENTY,
            level_of(2, Requirement(cores=8, wall_time=HOUR), owner=2, waited=2_000.0): 4,
        }
    )
    farm = Farm(queue)
    busy = {1: [1] * 8, 2: [1] * 8, 3: [1] * 8}
    kept: dict[int, int | None] = {}
    for _ in range(40):
        farm.nodes = Nodes(3, Counter(number for number in kept.values() if number is not None))
        busy = {pilot_id: widths[1:] for pilot_id, widths in busy.items()}
        slots = [
            slot_of(pilot_id, free=Room(8 - sum(widths), 16_000, 80_000), reserved_for=kept.get(pilot_id))
            for pilot_id, widths in busy.items()
        ]
        outcome = farm.round(slots)
        kept |= outcome.reservations
        for found in outcome.matches:
            busy[found.place.pilot_id].append(found.grant.cores)
    assert not queue.jobs[2, 0]


def test_a_reserved_place_takes_nothing_narrower_until_its_job_came() -> None:
    queue = _narrow_and_wide(2_000.0)
    farm = Farm(queue, nodes=Nodes(10, {2: 1}))
    assert farm.round([slot_of(1, free=Room(7, 16_000, 80_000), reserved_for=2)]).matches == ()
    outcome = farm.round([slot_of(1, 9, reserved_for=2)])
    assert [found.grant.cores for found in outcome.matches] == [8, 1]
    assert outcome.reservations == {1: None}


def test_a_reservation_is_given_back_when_its_level_is_gone() -> None:
    queue = _narrow_and_wide(2_000.0)
    queue.jobs[2, 0] = []
    outcome = Farm(queue).round([slot_of(1, free=Room(7, 16_000, 80_000), reserved_for=2)])
    assert outcome.reservations == {1: None}
    assert len(outcome.matches) == 7


def test_a_reservation_outlasts_a_moment_in_which_no_job_may_start() -> None:
    queue = _narrow_and_wide(2_000.0)
    farm = Farm(queue, rates=[StartRate(1, 10, 60.0, 0.0, NOW)])
    outcome = farm.round([slot_of(1, 8, reserved_for=2), slot_of(2, 8, free=Room(1, 16_000, 80_000), reserved_for=2)])
    assert outcome.matches == ()
    assert not outcome.reservations


def test_a_reservation_is_given_back_when_a_limit_is_full() -> None:
    queue = _narrow_and_wide(2_000.0)
    farm = Farm(queue, limits=[LimitRow(1, "wide", Selector(owner_id=1), 0, 0)])
    assert farm.round([slot_of(1, 8, reserved_for=2)]).reservations == {1: None}


def test_no_more_nodes_are_reserved_than_the_rules_allow_and_no_level_has_more_than_half_of_them() -> None:
    wide = {level_of(n, Requirement(cores=8), owner=n, waited=2_000.0): 50 for n in (2, 3)}
    queue = Queue({**wide, level_of(1, Requirement()): 99})
    slots = [slot_of(n, free=Room(7, 16_000, 80_000)) for n in range(1, 11)]
    farm = Farm(queue, nodes=Nodes(40, {9: 1}), rules=Rules(wide_reserve=0.1))
    outcome = farm.round(slots)
    assert Counter(outcome.reservations.values()) == {2: 2, 3: 1}
    none = Farm(queue, nodes=Nodes(40), rules=Rules(wide_reserve=0.0)).round(slots)
    assert not none.reservations


def test_most_cuts_a_round_short() -> None:
    outcome = Farm(Queue({level_of(1, Requirement()): 99}), rules=Rules(most=5)).round([slot_of(1)])
    assert len(outcome.matches) == 5
    assert outcome.is_cut_short
