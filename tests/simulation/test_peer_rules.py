"""The formulas of the peers, on examples from what they publish."""

from __future__ import annotations

import pytest

from tests.simulation import glideinwms, site_director
from tests.simulation.glideinwms import Limits, Threshold

NO_SLOT = Threshold(0, 5, 100)
NONE_AT_ALL = (Threshold(0, 90_000, 100_000), Threshold(0, 200, 1_000))
"""The Frontend's limits by default, and nothing there."""


def asked_for(
    idle: int,
    old_idle: int = 0,
    registered: int = 0,
    *,
    slots: Threshold = NO_SLOT,
    totals: tuple[Threshold, ...] = NONE_AT_ALL,
) -> int:
    """ReqIdleGlideins of an entry that may have 10,000 glideins."""
    here = Threshold(registered, 10_000, 10_000)
    return glideinwms.min_idle(idle, old_idle, here, idle_slots=slots, totals=totals)


def test_a_site_director_submits_for_the_jobs_that_no_waiting_pilot_is_there_for() -> None:
    assert site_director.to_submit(slots=50, waiting_jobs=30, waiting_pilots=12) == 18
    assert site_director.to_submit(slots=10, waiting_jobs=30, waiting_pilots=12) == 10
    assert site_director.to_submit(slots=10, waiting_jobs=12, waiting_pilots=30) == 0


def test_a_site_director_submits_a_hundred_to_a_queue_in_a_cycle_at_the_most() -> None:
    assert site_director.to_submit(slots=500, waiting_jobs=1_000, waiting_pilots=0) == 100


def test_a_queue_of_dirac_takes_ten_pilots_that_wait_by_default() -> None:
    """MaxTotalJobs and MaxWaitingJobs are 10 where nothing is configured."""
    assert site_director.free_slots(max_total=10, max_waiting=10, waiting=4, running=3) == 3
    assert site_director.free_slots(max_total=100, max_waiting=10, waiting=4, running=3) == 6


def test_a_queue_of_dirac_that_failed_is_tried_again_in_the_tenth_cycle() -> None:
    """FailedQueueCycleFactor 10; and DIRAC's worked cases with a factor of 3: 0 and 3 may, 1, 2 and 4 may not."""
    assert [site_director.skips(failures, factor=3) for failures in range(5)] == [False, True, True, False, True]
    assert [failures for failures in range(21) if not site_director.skips(failures)] == [0, 10, 20]


def test_a_frontend_asks_for_a_third_of_ten_idle_jobs_and_for_twelve_glideins_at_the_most() -> None:
    """GlideinWMS issue 443 shows a request that only ten jobs make: ReqIdleGlideins 3, ReqMaxGlideins 12."""
    assert asked_for(idle=10, old_idle=0, registered=0) == 3
    assert glideinwms.max_running(idle=10, running=0, idle_slots=0) == 12


def test_a_frontend_asks_for_one_idle_glidein_and_six_in_all_when_one_job_waits_and_four_run() -> None:
    """GlideinWMS issue 282 shows a request that five jobs make: ReqIdleGlideins 1, ReqMaxGlideins 6."""
    assert asked_for(idle=1, old_idle=0, registered=4) == 1
    assert glideinwms.max_running(idle=1, running=4, idle_slots=0) == 6


def test_a_frontend_reserves_five_more_when_jobs_have_waited_for_long() -> None:
    assert asked_for(idle=30, old_idle=30, registered=0) == 15
    assert asked_for(idle=30, old_idle=6, registered=0) == 12


def test_a_frontend_wants_a_hundred_idle_glideins_at_an_entry_at_the_most() -> None:
    assert asked_for(idle=900, old_idle=900, registered=0) == 100


def test_a_frontend_halves_its_request_at_each_curb_and_asks_for_none_at_a_limit() -> None:
    some, many, full = Threshold(5, 5, 100), Threshold(90_000, 90_000, 100_000), Threshold(100, 5, 100)
    assert asked_for(idle=60) == 20
    assert asked_for(idle=60, slots=some) == 10
    assert asked_for(idle=60, slots=some, totals=(many, NONE_AT_ALL[1])) == 5
    assert asked_for(idle=60, slots=full) == 0


def test_a_frontend_without_idle_jobs_asks_for_none_and_for_no_more_than_runs() -> None:
    assert asked_for(idle=0, old_idle=0, registered=7) == 0
    assert glideinwms.max_running(idle=0, running=7, idle_slots=0) == 7


@pytest.mark.parametrize(
    ("clusters", "cores", "needs"),
    [
        ([(100, 1, 4)], 1, 25),
        ([(100, 1, 4)], 8, 4),  # 25 cores
        ([(1, 1, 100)], 1, 1),  # every entry rounds up
        ([(10, 8, 1), (10, 1, 2)], 8, 11),  # 80 and 5 cores
        ([], 8, 0),
    ],
)
def test_an_entry_gets_its_part_of_the_jobs_in_cores_rounded_up(
    clusters: list[tuple[int, int, int]], cores: int, needs: int
) -> None:
    assert glideinwms.proportional(clusters, cores) == needs


def test_a_factory_fills_up_to_what_is_asked_for_within_its_limits() -> None:
    """Limits as in the example of UCSD's page on them: 2,000 idle, 10,000 in all, 100 a cycle."""
    limits = Limits(idle=2_000, total=10_000, at_once=100)
    assert glideinwms.to_add(wanted_idle=50, most=400, queued=20, running=100, limits=limits) == 30
    assert glideinwms.to_add(wanted_idle=50, most=130, queued=20, running=100, limits=limits) == 10
    assert glideinwms.to_add(wanted_idle=500, most=4_000, queued=0, running=0, limits=limits) == 100
    assert glideinwms.to_add(wanted_idle=50, most=400, queued=60, running=100, limits=limits) == 0


def test_an_entry_that_may_have_two_glideins_gets_no_third() -> None:
    """GlideinWMS issue 397: two were allowed, and the formula asks for no more."""
    assert glideinwms.to_add(wanted_idle=1, most=5, queued=0, running=2, limits=Limits(idle=2, total=2)) == 0
