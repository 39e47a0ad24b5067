"""The pure rules of provisioning: what is requested, and where."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from typing import Any

import pytest

from pipeline.store.autoclusters import Owner
from pipeline.store.match_rows import LimitRow, Selector
from pipeline.store.provisioning_rows import Demand, Place, Room
from schemas.requirements import Requirement, Specification
from tests.unit.executors.plan_ground import busy, demand, only, pilot, requested, room, running


def test_one_waiting_job_wants_one_pilot_however_many_queues_there_are() -> None:
    assert requested([room(1), room(2), room(3)], [demand(1)]) == {(1, 1): 1}


def test_the_demand_is_shared_in_proportion_to_free_room() -> None:
    assert requested([room(1), room(2, max_pilots=5)], [demand(9)]) == {(1, 1): 6, (2, 1): 3}


def test_a_queue_gets_no_more_than_its_limits_leave() -> None:
    live = (busy(1, 1), pilot(2, 1))
    assert requested([room(1, max_pilots=4)], [demand(100)], live=live) == {(1, 1): 2}
    assert requested([room(1, max_pending_pilots=3)], [demand(100)], live=live) == {(1, 1): 2}


def test_cores_count_and_not_pilots() -> None:
    assert requested([room(1, cores=4)], [demand(9)]) == {(1, 1): 3}
    assert requested([room(1, cores=8)], [demand(3, cores=4)]) == {(1, 1): 2}


def test_free_slots_and_pilots_to_come_are_counted_on_but_not_draining_ones() -> None:
    ready = running(1, 1, cores=2)
    assert requested([room(1, cores=2)], [demand(4)], live=(ready, pilot(2, 1))) == {}
    leaving = running(3, 1, leaves=True, cores=2)
    assert requested([room(1, cores=2)], [demand(4)], live=(ready, leaving)) == {(1, 1): 1}


@pytest.mark.parametrize(
    ("entry", "wants"),
    [
        ({"wall_time": 3600}, {"wall_time": 3600}),
        ({"memory": 1000}, {"memory": 2000}),
        ({}, {"tags": ("gpu",)}),
        ({}, {"banned_sites": ("S",)}),
    ],
)
def test_a_job_that_no_fresh_pilot_could_run_wants_none(entry: dict[str, Any], wants: dict[str, Any]) -> None:
    assert requested([room(1, **entry)], [demand(5, **wants)]) == {}


def limit(number: int, maximum: int, running: int = 0, **selector: Any) -> LimitRow:
    return LimitRow(number, "l", Selector(**selector), maximum, running)


def charged(jobs: int, job_type: str = "user", owner: int = 1) -> Demand:
    return replace(demand(jobs), job_type=job_type, owner=Owner(1, 1, owner, job_type, ()))


def test_no_pilots_are_requested_for_jobs_that_a_limit_would_not_let_start() -> None:
    merges = limit(1, 10, running=7, vo_id=1, job_type="merge")
    wide = [room(1, max_pilots=50, max_pending_pilots=50)]
    assert requested(wide, [charged(40, "merge")], limits=(merges,)) == {(1, 1): 3}
    assert requested(wide, [charged(2, "merge", 1), charged(2, "merge", 2)], limits=(merges,)) == {(1, 1): 3}
    assert requested(wide, [charged(40)], limits=(merges,)) == {(1, 1): 40}
    assert requested(wide, [charged(40, "merge")], limits=(limit(1, 3, 5, vo_id=1),)) == {}
    other_vos = limit(1, 0, vo_id=2)
    assert requested(wide, [charged(4)], limits=(other_vos,)) == {(1, 1): 4}


def test_what_a_sites_limit_leaves_out_goes_to_other_sites() -> None:
    full, free = room(1), room(2, site=2)
    at_one = limit(1, 8, running=6, site_id=1)
    assert requested([full, free], [demand(10)], limits=(at_one,)) == {(1, 1): 2, (2, 1): 8}
    mine = limit(2, 1, vo_id=1, site_id=1, owner_id=1)
    assert requested([full, free], [charged(10)], limits=(at_one, mine)) == {(1, 1): 1, (2, 1): 9}


def test_a_free_slot_counts_for_no_more_jobs_than_a_limit_lets_start_there() -> None:
    idle = running(1, 1, cores=4)
    beside = room(2, site=2)
    at_one = limit(1, 3, running=2, site_id=1)
    wanted = requested([room(1), beside], [demand(4)], live=(idle,), limits=(at_one,))
    assert wanted == {(2, 1): 3}


def test_a_banned_or_backed_off_queue_gets_none() -> None:
    assert requested([room(1, closed="is banned"), room(2)], [demand(5)]) == {(2, 1): 5}


def test_vos_are_served_side_by_side_by_a_queue_that_both_may_use() -> None:
    rooms = [room(1, 1), room(1, 2)]
    assert requested(rooms, [demand(100), demand(100, vo=2)]) == {(1, 1): 5, (1, 2): 5}
    assert requested(rooms, [demand(100), demand(2, vo=2)]) == {(1, 1): 8, (1, 2): 2}


def test_vos_share_a_queue_as_the_sites_file_says() -> None:
    def rooms(first: float, second: float) -> list[Room]:
        return [replace(room(1, 1), share=first), replace(room(1, 2), share=second)]

    wants = [demand(100), demand(100, vo=2)]
    assert requested(rooms(4.0, 1.0), wants) == {(1, 1): 8, (1, 2): 2}
    assert requested(rooms(0.1, 0.4), wants) == {(1, 1): 2, (1, 2): 8}
    assert requested(rooms(4.0, 1.0), [demand(100, vo=2)]) == {(1, 2): 10}


def test_a_queue_in_test_mode_gets_pilots_for_jobs_of_that_type_alone() -> None:
    tested = replace(room(1), only_job_type="test")
    assert requested([tested], [demand(5)]) == {}
    assert only([tested], [demand(5)]).waiting_jobs == 0
    wants = [demand(5), Demand(1, Requirement(), 3, "test")]
    assert requested([tested], wants) == {(1, 1): 3}
    assert requested([tested, room(2)], [demand(5)]) == {(2, 1): 5}
    ready = running(1, 1, cores=8)
    assert requested([tested, room(2)], [demand(5)], live=(ready,)) == {(2, 1): 5}


def test_pilots_are_requested_where_any_alternative_fits() -> None:
    either = demand(4, any_of=[{"gpu": {"vendor": "nvidia"}}, {"cores": 2}])
    gpus = room(1, gpu={"count": 4, "vendor": "nvidia"}, cores=4)
    assert requested([room(2)], [either]) == {}
    assert requested([room(2, cores=4)], [either]) == {(2, 1): 2}
    assert requested([gpus], [either]) == {(1, 1): 1}


def test_gpus_that_are_taken_are_not_counted_on() -> None:
    wants = [demand(1, gpu={})]
    gpus = room(1, gpu={"count": 1}, cores=4)
    ready = running(1, 1, cores=4)
    assert requested([gpus], wants, live=(ready,)) == {(1, 1): 1}
    assert requested([gpus], wants, live=(replace(ready, gpus=1),)) == {}


def test_a_job_that_takes_what_is_free_wants_a_pilot_of_its_own() -> None:
    assert requested([room(1, cores=8)], [demand(2, cores={"min": 1, "max": 8})]) == {(1, 1): 2}
    assert requested([room(1, cores=8)], [demand(3, cores={"min": 1, "max": 3})]) == {(1, 1): 1}


def test_plans_of_two_threads_do_not_mix_up_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    there, hashed = room(1, tags=("there",)), Specification.__hash__
    found: list[dict[Place, int]] = []

    def interrupted(one: Specification) -> int:
        """The first time, another thread's plan comes in between."""
        if "missing" in str(one.tags) and not found:
            other = Thread(target=lambda: found.append(requested([there], [demand(1, tags=("there",))])))
            found.append({})
            other.start()
            other.join()
        return hashed(one)

    monkeypatch.setattr(Specification, "__hash__", interrupted)
    assert requested([there], [demand(1, tags=("missing",))]) == {}
    assert found[1:] == [{(1, 1): 1}]
