"""The pure rules of provisioning."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executors.pilots.decide import plan
from executors.pilots.follow import Hearing, Next, follow, next_state
from executors.pilots.port import BatchAnswer, BatchState
from pipeline.store.autoclusters import Owner
from pipeline.store.match_rows import LimitRow, Selector
from pipeline.store.provisioning import Demand, LivePilot, Room, Situation
from pipeline.store.queue_pilots import BatchPilot
from schemas.requirements import Requirement
from schemas.sites import SiteQueueEntry
from schemas.states import PILOT_TRANSITIONS, PilotState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEARD = Hearing(NOW, NOW - timedelta(hours=1), 120.0)
MARGIN = 300.0


def room(queue: int, vo: int = 1, *, open_: bool = True, **entry: Any) -> Room:
    wanted = {"name": f"q{queue}", "cores": 1, "memory": 8192, "max_pilots": 10, "max_pending_pilots": 10, **entry}
    return Room(queue, 1, "S", vo, SiteQueueEntry.model_validate(wanted), open_)


def demand(jobs: int, vo: int = 1, **wants: Any) -> Demand:
    return Demand(vo, Requirement.model_validate(wants), jobs)


def pilot(
    number: int, queue: int, vo: int = 1, state: PilotState = PilotState.QUEUED, *, leaves: bool = False, cores: int = 0
) -> LivePilot:
    return LivePilot(number, queue, vo, state, leaves, cores, 8192, 10_240, 80_000.0)


def requested(
    *, rooms: list[Room], wants: list[Demand], live: tuple[LivePilot, ...] = (), limits: tuple[LimitRow, ...] = ()
) -> dict[tuple[int, int], int]:
    made = plan(Situation(tuple(wants), tuple(rooms), live, frozenset(), limits), MARGIN)
    return {(request.room.site_queue_id, request.room.vo_id): request.count for request in made.requests}


def test_one_waiting_job_wants_one_pilot_however_many_queues_there_are() -> None:
    assert requested(rooms=[room(1), room(2), room(3)], wants=[demand(1)]) == {(1, 1): 1}


def test_the_demand_is_shared_in_proportion_to_free_room() -> None:
    assert requested(rooms=[room(1), room(2, max_pilots=5)], wants=[demand(9)]) == {(1, 1): 6, (2, 1): 3}


def test_a_queue_gets_no_more_than_its_limits_leave() -> None:
    live = (pilot(1, 1, state=PilotState.RUNNING), pilot(2, 1))
    assert requested(rooms=[room(1, max_pilots=4)], wants=[demand(100)], live=live) == {(1, 1): 2}
    assert requested(rooms=[room(1, max_pending_pilots=3)], wants=[demand(100)], live=live) == {(1, 1): 2}


def test_cores_count_and_not_pilots() -> None:
    assert requested(rooms=[room(1, cores=4)], wants=[demand(9)]) == {(1, 1): 3}
    assert requested(rooms=[room(1, cores=8)], wants=[demand(3, cores=4)]) == {(1, 1): 2}


def test_free_slots_and_pilots_to_come_are_counted_on_but_not_draining_ones() -> None:
    ready = pilot(1, 1, state=PilotState.RUNNING, cores=2)
    assert requested(rooms=[room(1, cores=2)], wants=[demand(4)], live=(ready, pilot(2, 1))) == {}
    leaving = pilot(3, 1, state=PilotState.RUNNING, leaves=True, cores=2)
    assert requested(rooms=[room(1, cores=2)], wants=[demand(4)], live=(ready, leaving)) == {(1, 1): 1}


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
    assert requested(rooms=[room(1, **entry)], wants=[demand(5, **wants)]) == {}


def limit(number: int, maximum: int, running: int = 0, **selector: Any) -> LimitRow:
    return LimitRow(number, "l", Selector(**selector), maximum, running)


def charged(jobs: int, job_type: str = "user", owner: int = 1) -> Demand:
    return replace(demand(jobs), job_type=job_type, owner=Owner(1, 1, owner, job_type, ()))


def test_no_pilots_are_requested_for_jobs_that_a_limit_would_not_let_start() -> None:
    merges = limit(1, 10, running=7, vo_id=1, job_type="merge")
    wide = [room(1, max_pilots=50, max_pending_pilots=50)]
    assert requested(rooms=wide, wants=[charged(40, "merge")], limits=(merges,)) == {(1, 1): 3}
    assert requested(rooms=wide, wants=[charged(2, "merge", 1), charged(2, "merge", 2)], limits=(merges,)) == {
        (1, 1): 3
    }
    assert requested(rooms=wide, wants=[charged(40)], limits=(merges,)) == {(1, 1): 40}
    assert requested(rooms=wide, wants=[charged(40, "merge")], limits=(limit(1, 3, 5, vo_id=1),)) == {}
    other_vos = limit(1, 0, vo_id=2)
    assert requested(rooms=wide, wants=[charged(4)], limits=(other_vos,)) == {(1, 1): 4}


def test_what_a_sites_limit_leaves_out_goes_to_other_sites() -> None:
    full, free = room(1), replace(room(2), site_id=2, site="T")
    at_one = limit(1, 8, running=6, site_id=1)
    assert requested(rooms=[full, free], wants=[demand(10)], limits=(at_one,)) == {(1, 1): 2, (2, 1): 8}
    mine = limit(2, 1, vo_id=1, site_id=1, owner_id=1)
    assert requested(rooms=[full, free], wants=[charged(10)], limits=(at_one, mine)) == {(1, 1): 1, (2, 1): 9}


def test_a_free_slot_counts_for_no_more_jobs_than_a_limit_lets_start_there() -> None:
    idle = pilot(1, 1, state=PilotState.RUNNING, cores=4)
    beside = replace(room(2), site_id=2, site="T")
    at_one = limit(1, 3, running=2, site_id=1)
    wanted = requested(rooms=[room(1), beside], wants=[demand(4)], live=(idle,), limits=(at_one,))
    assert wanted == {(2, 1): 3}


def test_a_banned_or_backed_off_queue_gets_none() -> None:
    assert requested(rooms=[room(1, open_=False), room(2)], wants=[demand(5)]) == {(2, 1): 5}


def test_vos_are_served_side_by_side_by_a_queue_that_both_may_use() -> None:
    rooms = [room(1, 1), room(1, 2)]
    assert requested(rooms=rooms, wants=[demand(100), demand(100, vo=2)]) == {(1, 1): 5, (1, 2): 5}
    assert requested(rooms=rooms, wants=[demand(100), demand(2, vo=2)]) == {(1, 1): 8, (1, 2): 2}


def test_vos_share_a_queue_as_the_sites_file_says() -> None:
    def rooms(first: float, second: float) -> list[Room]:
        return [replace(room(1, 1), share=first), replace(room(1, 2), share=second)]

    wants = [demand(100), demand(100, vo=2)]
    assert requested(rooms=rooms(4.0, 1.0), wants=wants) == {(1, 1): 8, (1, 2): 2}
    assert requested(rooms=rooms(0.1, 0.4), wants=wants) == {(1, 1): 2, (1, 2): 8}
    assert requested(rooms=rooms(4.0, 1.0), wants=[demand(100, vo=2)]) == {(1, 2): 10}


def test_a_queue_in_test_mode_gets_pilots_for_jobs_of_that_type_alone() -> None:
    tested = replace(room(1), only_job_type="test")
    assert requested(rooms=[tested], wants=[demand(5)]) == {}
    assert plan(Situation((demand(5),), (tested,), (), frozenset()), MARGIN).idle == {(1, 1)}
    wants = [demand(5), Demand(1, Requirement(), 3, "test")]
    assert requested(rooms=[tested], wants=wants) == {(1, 1): 3}
    assert requested(rooms=[tested, room(2)], wants=[demand(5)]) == {(2, 1): 5}
    ready = pilot(1, 1, state=PilotState.RUNNING, cores=8)
    assert requested(rooms=[tested, room(2)], wants=[demand(5)], live=(ready,)) == {(2, 1): 5}


def test_pilots_are_requested_where_any_alternative_fits() -> None:
    either = demand(4, any_of=[{"gpu": {"vendor": "nvidia"}}, {"cores": 2}])
    gpus = room(1, gpu={"count": 4, "vendor": "nvidia"}, cores=4)
    assert requested(rooms=[room(2)], wants=[either]) == {}
    assert requested(rooms=[room(2, cores=4)], wants=[either]) == {(2, 1): 2}
    assert requested(rooms=[gpus], wants=[either]) == {(1, 1): 1}


def test_gpus_that_are_taken_are_not_counted_on() -> None:
    wants = [demand(1, gpu={})]
    gpus = room(1, gpu={"count": 1}, cores=4)
    ready = pilot(1, 1, state=PilotState.RUNNING, cores=4)
    assert requested(rooms=[gpus], wants=wants, live=(ready,)) == {(1, 1): 1}
    assert requested(rooms=[gpus], wants=wants, live=(replace(ready, gpus=1),)) == {}


def test_a_job_that_takes_what_is_free_wants_a_pilot_of_its_own() -> None:
    assert requested(rooms=[room(1, cores=8)], wants=[demand(2, cores={"min": 1, "max": 8})]) == {(1, 1): 2}
    assert requested(rooms=[room(1, cores=8)], wants=[demand(3, cores={"min": 1, "max": 3})]) == {(1, 1): 1}


def test_pending_pilots_are_removed_after_two_cycles_without_any_demand() -> None:
    live = (pilot(1, 1), pilot(2, 1, state=PilotState.RUNNING))
    first = plan(Situation((), (room(1),), live, frozenset()), MARGIN)
    assert (first.removals, first.idle) == ((), frozenset({(1, 1)}))
    assert plan(Situation((), (room(1),), live, first.idle), MARGIN).removals == (1,)
    assert plan(Situation((demand(1),), (room(1),), live, first.idle), MARGIN).removals == ()


def test_pending_pilots_of_a_queue_that_is_declared_no_more_are_removed() -> None:
    assert plan(Situation((demand(9),), (), (pilot(1, 1),), frozenset()), MARGIN).removals == (1,)


@given(
    jobs=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 2), st.integers(1, 4)), max_size=4),
    queues=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=3),
    live=st.lists(st.tuples(st.integers(1, 3), st.sampled_from([PilotState.QUEUED, PilotState.RUNNING])), max_size=5),
)
def test_a_plan_keeps_every_limit_and_asks_for_no_more_than_the_demand(
    jobs: list[tuple[int, int, int]], queues: list[tuple[int, int, int]], live: list[tuple[int, PilotState]]
) -> None:
    rooms = [
        room(number, vo, cores=cores, max_pilots=most, max_pending_pilots=pending, memory=99_999, disk=99_999)
        for number, (cores, most, pending) in enumerate(queues, 1)
        for vo in (1, 2)
    ]
    alive = tuple(pilot(number, queue, state=state) for number, (queue, state) in enumerate(live, 1))
    wants = [demand(count, vo, cores=cores) for count, vo, cores in jobs]
    made = requested(rooms=rooms, wants=wants, live=alive)
    for number, (_, most, pending) in enumerate(queues, 1):
        new = sum(count for (queue, _), count in made.items() if queue == number)
        mine = [p for p in alive if p.site_queue_id == number]
        assert new <= max(most - len(mine), 0)
        assert new <= max(pending - sum(p.state is PilotState.QUEUED for p in mine), 0)
    for vo in (1, 2):
        assert sum(n for (_, of), n in made.items() if of == vo) <= sum(d.jobs for d in wants if d.vo_id == vo)


def batch_pilot(state: PilotState, *, seen: float | None = None, **values: Any) -> BatchPilot:
    last_seen = None if seen is None else NOW - timedelta(seconds=seen)
    given_ = {"remove_requested": False, "submitted_at": NOW - timedelta(hours=1), "last_seen": last_seen, **values}
    return BatchPilot(1, "tag", 1, state, **given_)


def answer(state: BatchState, code: int | None = None) -> BatchAnswer:
    return BatchAnswer("tag", state, code, f"exit code {code}")


@pytest.mark.parametrize(
    ("pilot_", "batch", "to"),
    [
        (batch_pilot(PilotState.REQUESTED), BatchState.RUNNING, PilotState.SUBMITTED),
        (batch_pilot(PilotState.SUBMITTED), BatchState.QUEUED, PilotState.QUEUED),
        (batch_pilot(PilotState.SUBMITTED), BatchState.RUNNING, PilotState.QUEUED),
        (batch_pilot(PilotState.QUEUED), BatchState.HELD, PilotState.HELD),
        (batch_pilot(PilotState.QUEUED), BatchState.QUEUED, None),
        (batch_pilot(PilotState.QUEUED), BatchState.DONE, PilotState.FAILED),
        (batch_pilot(PilotState.QUEUED, remove_requested=True), BatchState.FAILED, PilotState.REMOVED),
        (batch_pilot(PilotState.QUEUED), None, PilotState.FAILED),
        (batch_pilot(PilotState.SUBMITTED, submitted_at=NOW), None, None),
        (batch_pilot(PilotState.RUNNING, seen=5), BatchState.DONE, None),
        (batch_pilot(PilotState.RUNNING, seen=5), None, None),
        (batch_pilot(PilotState.RUNNING, seen=500), BatchState.RUNNING, None),
        (batch_pilot(PilotState.RUNNING, seen=500), BatchState.DONE, PilotState.DONE),
        (batch_pilot(PilotState.RUNNING, seen=500), BatchState.FAILED, PilotState.FAILED),
        (batch_pilot(PilotState.LOST, seen=500), None, PilotState.FAILED),
        (batch_pilot(PilotState.DRAINING, seen=500, remove_requested=True), None, PilotState.REMOVED),
    ],
)
def test_a_batch_systems_answer_moves_a_pilot_unless_its_heartbeat_says_otherwise(
    pilot_: BatchPilot, batch: BatchState | None, to: PilotState | None
) -> None:
    then = next_state(pilot_, None if batch is None else answer(batch, 0), HEARD)
    assert (None if then is None else then.to) == to
    assert to is None or to in PILOT_TRANSITIONS[pilot_.state]


@pytest.mark.parametrize("since", [None, NOW - timedelta(seconds=60)])
def test_silence_does_not_count_while_the_api_could_not_hear(since: datetime | None) -> None:
    silent = batch_pilot(PilotState.RUNNING, seen=5000)
    assert next_state(silent, answer(BatchState.DONE, 0), Hearing(NOW, since, 120.0)) is None


def test_a_requested_pilot_is_submitted_unless_the_batch_system_knows_it_or_nobody_wants_it() -> None:
    wanted = batch_pilot(PilotState.REQUESTED, submitted_at=None)
    assert follow([wanted], {}, HEARD).submit == (wanted,)
    assert follow([wanted], {"tag": answer(BatchState.QUEUED)}, HEARD).submit == ()
    unwanted = batch_pilot(PilotState.REQUESTED, remove_requested=True)
    steps = follow([unwanted], {}, HEARD)
    assert (steps.submit, steps.moves) == ((), ((unwanted, Next(PilotState.REMOVED, "was not wanted any more")),))
    assert follow([unwanted], {"tag": answer(BatchState.QUEUED)}, HEARD).remove == ("tag",)
