"""The pages of a campaign and of a job, and what they advise."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.cli.campaign_page import advice
from pipeline.cli.job_page import show_job
from pipeline.cli.remote import asked
from pipeline.errors import BadInput
from schemas.api import CampaignView, EventView, FileView, JobView, ReplicaView, StepView, TokenRequest
from schemas.states import CampaignState, JobState, StepState
from schemas.story import StoryLine

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def campaign(state: StepState, jobs: dict[JobState, int]) -> CampaignView:
    """A campaign of one step."""
    step = StepView(
        name="half", version=1, state=state, after=(), min_success=0.9, jobs=jobs, ended_at=None, dataset=None, files=0
    )
    return CampaignView(
        id=7, name="c", state=CampaignState.BLOCKED, owner="me", created_at=NOON, ended_at=None, steps=(step,)
    )


def test_a_blocked_step_comes_with_the_commands_that_decide_about_it() -> None:
    lines = list(advice(campaign(StepState.BLOCKED, {JobState.DONE: 1, JobState.FAILED: 2})))
    assert lines[0].startswith("step half is blocked: 1 of 3 jobs done, 90% must be")
    assert [line.partition(":")[2].strip() for line in lines[1:]] == [
        "penstock jobs list --campaign 7 --step half --state failed",
        "penstock campaigns retry 7",
        "penstock campaigns accept 7 half",
    ]


def test_killed_jobs_are_not_offered_a_retry() -> None:
    assert "retry" not in "".join(advice(campaign(StepState.BLOCKED, {JobState.KILLED: 1})))


def test_a_step_that_runs_needs_no_advice() -> None:
    assert list(advice(campaign(StepState.RUNNING, {JobState.FAILED: 1}))) == []


def test_a_jobs_page_tells_its_story(capsys: pytest.CaptureFixture[str]) -> None:
    lost = EventView(
        at=NOON, attempt=1, from_state=JobState.RUNNING, to_state=JobState.RECEIVED, reason="pilot gone", pilot_id=3
    )
    line = StoryLine(
        at=NOON, state=JobState.RECEIVED, seconds=200, attempt=1, text="attempt 1 is over; tried again; pilot gone",
        pilot_id=3, site="A", site_queue="long", node="wn1",
    )  # fmt: skip
    replica = ReplicaView(storage="disk", url="file:///d/out.txt", state="usable")
    output = FileView(
        id=1, lfn="/v/out.txt", name="out.txt", size=5, adler32="0a", dataset=None, job_id=9, created_at=NOON,
        replicas=(replica,),
    )  # fmt: skip
    view = JobView(
        id=9, campaign_id=7, step="half", index=0, state=JobState.DONE, attempt=2, site="A", exit_code=0, reason=None,
        changed_at=NOON, owner="me", created_at=NOON, priority=0, kill_requested=False, pilot_id=4,
        infrastructure_losses=1, payload_failures=0, command=("echo", "a b"), parameters={"n": 1, "index": 0},
        events=(lost,), story=(line,), attempts=(), peek=None, outputs=(output,),
    )  # fmt: skip
    show_job(view)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "job 9: campaign 7, step half, index 0"
    assert {"where A, pilot 4", "attempts 2 (1 lost to the infrastructure)", "command echo 'a b'"} < set(lines)
    assert "parameters n=1" in lines
    assert "2026-01-02 12:00:00 3 min 1 received A/long on wn1 attempt 1 is over; tried again; pilot gone" in lines
    assert "out.txt 5 0a usable file:///d/out.txt" in lines


def test_an_option_that_the_api_would_refuse_is_named_at_once() -> None:
    with pytest.raises(BadInput, match="subject: String should have at least 1 character"):
        asked(TokenRequest, subject="")
