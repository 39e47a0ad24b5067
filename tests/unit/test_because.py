"""Why a job is in its state: the sentence follows from its site queues."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.because import JobFacts, reasons
from schemas.states import CampaignState, JobState, PilotState, StepState
from schemas.why_views import QueueWhy

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def job(state: JobState, **words: Any) -> JobFacts:
    facts: dict[str, Any] = {
        "id": 7, "campaign_id": 3, "step": "s", "state": state, "reason": None, "campaign_state": CampaignState.RUNNING,
        "step_state": StepState.RUNNING, "after": (), "kill_requested": False, "dead_letter_id": None,
        "sleeps_until": None, "site": "A", "pilot_id": 4, "last_seen": NOON,
    }  # fmt: skip
    return JobFacts(**{**facts, **words})


def queue(site: str = "A", **words: Any) -> QueueWhy:
    facts: dict[str, Any] = {
        "site": site, "queue": "q", "fits": True, "missing": (), "banned": None, "test_mode": None,
        "backoff_until": None, "backoff_reason": None, "full": (), "max_pilots": 1, "pilots": {}, "free_cores": 0,
        "room_for": 0,
    }  # fmt: skip
    return QueueWhy(**{**facts, **words})


PILOTS = {PilotState.RUNNING: 1}


@pytest.mark.parametrize(
    ("queues", "said"),
    [
        ([], "no site queue of your VO fits it; see below what each lacks"),
        ([queue(fits=False)], "no site queue of your VO fits it; see below what each lacks"),
        ([queue(banned="by x: y"), queue(fits=False)], "A/q would fit it, but is banned or in test mode"),
        ([queue(banned="by x"), queue("B", test_mode="t")], "A/q, B/q would fit it, but are banned or in test mode"),
        ([queue(full=("b", "a")), queue("B", full=("a",))], "limits without room keep it back: a, b"),
        ([queue(full=("a",), room_for=9), queue("B", pilots=PILOTS)], "the pilots at B/q have no room left for it now"),
        ([queue(pilots=PILOTS, room_for=2)], "pilots at A/q have room for it; it is matched soon"),
        ([queue()], "no pilot is at A/q yet; what waits makes Penstock ask for some, within a minute"),
        (
            [queue(backoff_until=NOON, backoff_reason="sbatch: no"), queue("B", max_pilots=0)],
            "no pilot is at A/q, and none is asked for now: sbatch: no",
        ),
        ([queue(max_pilots=0)], "no pilot is at A/q, and none will come: the sites file has max_pilots 0 there"),
        (
            [queue(name) for name in "ABCDEFG"],
            (
                "no pilot is at A/q, B/q, C/q, D/q, E/q and 2 more yet; what waits makes Penstock ask for some, "
                "within a minute"
            ),
        ),
    ],
    ids=["none", "unfit", "banned", "closed", "limits", "full", "room", "pilots", "failing", "no-pilots", "many"],
)
def test_a_waiting_job_is_told_what_keeps_it_back(queues: list[QueueWhy], said: str) -> None:
    assert list(reasons(job(JobState.WAITING), queues)) == [said]


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("step_state", list(StepState))
def test_there_is_a_reason_in_every_state(state: JobState, step_state: StepState) -> None:
    found = list(reasons(job(state, step_state=step_state, after=("first",)), [queue()]))
    assert found
    assert all(found)


def test_a_kill_that_was_asked_for_comes_first_until_the_job_is_over() -> None:
    assert "asked to kill it" in next(reasons(job(JobState.RUNNING, kill_requested=True), []))
    assert list(reasons(job(JobState.KILLED, kill_requested=True, reason="killed on request"), [])) == [
        "killed on request"
    ]
