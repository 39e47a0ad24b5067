"""A small simulation: what must hold in any, and what we promise of our rules in two cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest

from tests.simulation import cases
from tests.simulation.cases import Scale
from tests.simulation.engine import Simulation
from tests.simulation.figures import HALF, OURS, judge
from tests.simulation.record import Record
from tests.simulation.runs import CONTESTANTS

SEED = 1
SMALL = Scale(days=1, queues=20)
SMALL_CASES = ("bursts", "tail")


@cache
def records(case: str) -> Mapping[str, Record]:
    """Each rule set in a case."""
    made = cases.make(case, SEED, SMALL)
    return {name: Simulation(made, rules).run() for name, rules in CONTESTANTS.items()}


@pytest.mark.parametrize("case", SMALL_CASES)
def test_every_job_ends_once_under_every_rule_set(case: str) -> None:
    jobs = {job.id for job in cases.make(case, SEED, SMALL).jobs}
    for record in records(case).values():
        assert record.ends == dict.fromkeys(jobs, 1)


@pytest.mark.parametrize("case", SMALL_CASES)
def test_what_jobs_used_and_what_was_wasted_is_what_pilots_held(case: str) -> None:
    made = cases.make(case, SEED, SMALL)
    asked = sum(job.length * job.group.cores for job in made.jobs)
    for record in records(case).values():
        assert record.used >= asked * (1 - 1e-9)  # lost attempts come on top
        assert record.held >= record.used
        result = record.result()
        assert (result.used + result.wasted) * 3_600 == pytest.approx(record.held)


@pytest.mark.parametrize("case", SMALL_CASES)
def test_pilots_are_never_given_more_than_their_cores(case: str) -> None:
    for record in records(case).values():
        assert record.least_free >= 0


def test_a_seed_makes_the_same_simulation_again() -> None:
    first, second = (
        Simulation(cases.make("dead", SEED, replace(SMALL, days=0.5)), CONTESTANTS[OURS]).run().result()
        for _ in range(2)
    )
    assert first == second
    other = Simulation(cases.make("dead", SEED + 1, replace(SMALL, days=0.5)), CONTESTANTS[OURS]).run().result()
    assert first != other


def test_a_peer_may_be_held_to_the_limit_over_all_queues_that_it_does_not_know() -> None:
    free, held = (
        Simulation(cases.make("mix", SEED, replace(SMALL, capped=capped)), CONTESTANTS["SiteDirector"]).run().result()
        for capped in (False, True)
    )
    assert free.over_cap > 0
    assert held.over_cap == 0
    assert held.unfinished == 0


@pytest.mark.parametrize("case", SMALL_CASES)
def test_we_waste_half_as_much_as_the_better_peer_with_waits_no_longer_and_within_all_caps(case: str) -> None:
    verdict = judge([record.result() for record in records(case).values()], half_waste=True)
    assert verdict.ratio <= HALF
    assert verdict.misses == ()
