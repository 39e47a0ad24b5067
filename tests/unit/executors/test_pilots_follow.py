"""What a batch system's answers mean for pilots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from executors.pilots.follow import MOST_RELEASES, Hearing, Next, follow, next_state
from executors.pilots.port import BatchAnswer, BatchState
from pipeline.store.queue_pilots import BatchPilot
from schemas.states import PILOT_TRANSITIONS, PilotState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEARD = Hearing(NOW, NOW - timedelta(hours=10), 120.0, enrol_limit=600.0)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def batch_pilot(state: PilotState, *, seen: float | None = None, **values: Any) -> BatchPilot:
    last_seen = None if seen is None else ago(seen)
    given = {
        "id": 1,
        "vo_id": 1,
        "remove_requested": False,
        "submitted_at": ago(3600),
        "last_seen": last_seen,
        **values,
    }
    return BatchPilot(**{"tag": f"tag{given['id']}", "state": state, **given})


def answer(state: BatchState, code: int | None = 0, reason: str = "") -> BatchAnswer:
    return BatchAnswer("handle", state, code, reason or f"exit code {code}")


def answers(**states: BatchState) -> dict[str, BatchAnswer]:
    return {tag: answer(state) for tag, state in states.items()}


@pytest.mark.parametrize(
    ("pilot", "batch", "to"),
    [
        (batch_pilot(PilotState.REQUESTED), BatchState.RUNNING, PilotState.SUBMITTED),
        (batch_pilot(PilotState.SUBMITTED), BatchState.QUEUED, PilotState.QUEUED),
        (batch_pilot(PilotState.SUBMITTED), BatchState.RUNNING, PilotState.QUEUED),
        (batch_pilot(PilotState.QUEUED), BatchState.HELD, PilotState.HELD),
        (batch_pilot(PilotState.QUEUED, reason="exit code 0"), BatchState.QUEUED, None),
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
    pilot: BatchPilot, batch: BatchState | None, to: PilotState | None
) -> None:
    then = next_state(pilot, None if batch is None else answer(batch), HEARD)
    assert (None if then is None else then.to) == to
    assert to is None or to in PILOT_TRANSITIONS[pilot.state]


@pytest.mark.parametrize("since", [None, ago(60)])
def test_silence_does_not_count_while_the_api_could_not_hear(since: datetime | None) -> None:
    silent = batch_pilot(PilotState.RUNNING, seen=5000)
    assert next_state(silent, answer(BatchState.DONE), Hearing(NOW, since, 120.0)) is None


def test_a_requested_pilot_is_submitted_unless_the_batch_system_knows_it_or_nobody_wants_it() -> None:
    wanted = batch_pilot(PilotState.REQUESTED, submitted_at=None)
    assert follow([wanted], {}, HEARD).submit == [wanted]
    assert follow([wanted], answers(tag1=BatchState.QUEUED), HEARD).submit == []
    unwanted = batch_pilot(PilotState.REQUESTED, remove_requested=True)
    steps = follow([unwanted], {}, HEARD)
    assert (steps.submit, steps.moves) == ([], [(unwanted, Next(PilotState.REMOVED, "was not wanted any more"))])
    assert follow([unwanted], answers(tag1=BatchState.QUEUED), HEARD).remove == ["tag1"]


def test_why_a_pilot_is_unwanted_outlives_what_is_said_of_it_meanwhile() -> None:
    unwanted = batch_pilot(PilotState.SUBMITTED, remove_requested=True, reason="killed by somebody")
    for state in (BatchState.QUEUED, BatchState.HELD, BatchState.RUNNING, BatchState.FAILED):
        then = next_state(unwanted, answer(state), HEARD)
        assert then is not None
        assert then.reason == "killed by somebody"


def test_a_held_pilot_says_why_and_is_released_with_growing_wait() -> None:
    then = next_state(batch_pilot(PilotState.QUEUED), answer(BatchState.HELD, reason="no proxy"), HEARD)
    assert then == Next(PilotState.HELD, "no proxy")
    held = answers(tag1=BatchState.HELD)
    for releases, wait in ((0, 60), (1, 120), (5, 1920)):
        early = batch_pilot(PilotState.HELD, held_at=ago(wait - 1), releases=releases)
        due = batch_pilot(PilotState.HELD, held_at=ago(wait + 1), releases=releases)
        assert follow([early], held, HEARD).release == []
        assert follow([due], held, HEARD).release == [due]


def test_a_pilot_that_was_released_too_often_is_removed_and_its_queue_is_in_trouble() -> None:
    pilot = batch_pilot(PilotState.HELD, held_at=ago(60 * 2**MOST_RELEASES + 1), releases=MOST_RELEASES)
    steps = follow([pilot], {"tag1": answer(BatchState.HELD, reason="no proxy")}, HEARD)
    assert (steps.release, steps.remove) == ([], ["tag1"])
    ((_, then),) = steps.moves
    assert then.unwanted
    assert then.reason == "released 10 times, and held again: no proxy"
    assert "held pilots were given up" in steps.trouble


def test_a_pilot_held_while_it_ran_is_removed_once_it_is_silent() -> None:
    held = answers(tag1=BatchState.HELD)
    assert follow([batch_pilot(PilotState.RUNNING, seen=5)], held, HEARD).remove == []
    assert follow([batch_pilot(PilotState.LOST, seen=500)], held, HEARD).remove == ["tag1"]


def test_pilots_that_run_and_do_not_enrol_are_told_so_and_their_queue_is_in_trouble() -> None:
    fresh = batch_pilot(PilotState.QUEUED)
    steps = follow([fresh], answers(tag1=BatchState.RUNNING), HEARD)
    assert steps.moves == [(fresh, Next(PilotState.QUEUED, "runs, but has not enrolled yet", runs=True))]
    assert not steps.trouble
    late = batch_pilot(PilotState.QUEUED, runs_since=ago(601), reason="runs, but has not enrolled yet")
    steps = follow([late], answers(tag1=BatchState.RUNNING), HEARD)
    assert steps.moves == [(late, Next(PilotState.QUEUED, "runs for more than 600 s, but has not enrolled", runs=True))]
    assert steps.trouble == "1 pilots start but never enrol: can the queue's nodes reach the API?"
    neighbour = batch_pilot(PilotState.RUNNING, id=2, seen=1)
    both = answers(tag1=BatchState.RUNNING, tag2=BatchState.RUNNING)
    assert not follow([late, neighbour], both, HEARD).trouble


def test_what_ended_pilots_wrote_is_collected_before_they_are_forgotten() -> None:
    failed = batch_pilot(PilotState.QUEUED)
    steps = follow([failed], answers(tag1=BatchState.FAILED), HEARD)
    assert (steps.collect, steps.over) == ([failed], ["tag1"])
    gone = batch_pilot(PilotState.DONE, ended_at=ago(5), output_wanted_at=ago(5))
    assert follow([gone], answers(tag1=BatchState.RUNNING), HEARD).collect == []
    assert follow([gone], answers(tag1=BatchState.DONE), HEARD).over == ["tag1"]
    assert follow([gone], {}, HEARD).collect == [], "it may be listed a little later"
    forgotten = batch_pilot(PilotState.DONE, ended_at=ago(121), output_wanted_at=ago(121))
    steps = follow([forgotten], {}, HEARD)
    assert (steps.collect, steps.over) == ([forgotten], [])


def test_a_batch_job_that_outlives_its_pilot_is_removed() -> None:
    ended = batch_pilot(PilotState.FAILED, ended_at=ago(121), output_wanted_at=ago(121))
    assert follow([ended], answers(tag1=BatchState.RUNNING), HEARD).remove == ["tag1"]


def test_the_output_of_a_living_pilot_is_fetched_for_who_asks() -> None:
    asked = batch_pilot(PilotState.RUNNING, seen=1, output_wanted_at=ago(1))
    steps = follow([asked], answers(tag1=BatchState.RUNNING), HEARD)
    assert (steps.collect, steps.over, steps.remove) == ([asked], [], [])


def test_pilots_of_several_nodes_are_submitted_and_removed_in_whole_batch_jobs() -> None:
    wanted = [batch_pilot(PilotState.REQUESTED, id=number, vo_id=number % 2) for number in range(1, 8)]
    steps = follow(wanted, {}, HEARD, nodes=2)
    assert [(pilot.id, pilot.vo_id) for pilot in steps.submit] == [(1, 1), (3, 1), (5, 1), (7, 1), (2, 0), (4, 0)]
    assert [(pilot.id, then.to) for pilot, then in steps.moves] == [(6, PilotState.REMOVED)]
    of_job = [
        batch_pilot(PilotState.QUEUED, id=number, batch_id=f"{job}.{number}", remove_requested=number != 4)
        for number, job in ((1, "77"), (2, "77"), (3, "78"), (4, "78"))
    ]
    queued = answers(**{pilot.tag: BatchState.QUEUED for pilot in of_job})
    assert follow(of_job, queued, HEARD, nodes=2).remove == ["tag1", "tag2"]
    assert follow(of_job, queued, HEARD).remove == ["tag1", "tag2", "tag3"]
