"""Starts and reports against the fence: nothing that a late, repeated or wrong word says moves a job."""

from __future__ import annotations

from itertools import product

import pytest
from sqlalchemy import select

from pipeline.errors import Unauthorized
from pipeline.store import job_commands, pilots
from pipeline.store.database import Database
from pipeline.store.job_commands import JobFilter
from pipeline.store.losses import to_publish
from pipeline.store.tables import attempts, reported_outputs
from pipeline.store.tables import pilots as pilots_table
from schemas.messages import JobsReceived, OutputsReported, StepsDue
from schemas.pilots import AttemptRef, Report, ReportedOutput
from schemas.states import JobState, PilotState
from tests import building
from tests.pilot_rows import RULES, Scene, scene

BAD = ("payload_failed", "infrastructure_failed", "killed")


def ended(ref: AttemptRef, outcome: str = "succeeded", **words: object) -> Report:
    return Report.model_validate({**ref.model_dump(), "outcome": outcome, "wall_time": 5.0, **words})


def test_a_confirmation_is_accepted_as_often_as_it_comes(database: Database) -> None:
    at = scene(database, 2)
    assert len(at.start().verdict.accepted) == 2
    assert len(at.start().verdict.accepted) == 2
    assert at.states() == ["running", "running"]


def test_a_confirmation_after_the_job_went_back_is_refused(database: Database) -> None:
    at = scene(database)
    late = at.refs()
    at.move(JobState.WAITING)
    ruling = at.start(late)
    assert (ruling.verdict.accepted, len(ruling.verdict.refused)) == ((), 1)
    assert at.states() == ["waiting"]
    assert at.counted() == 0


def test_a_confirmation_of_the_attempt_before_is_refused_even_by_the_same_pilot(database: Database) -> None:
    at = scene(database)
    late = at.refs()
    at.move(JobState.RECEIVED)
    at.assign()
    assert at.start(late).verdict.accepted == ()
    assert at.states() == ["matched"]


def test_a_success_is_completing_and_wakes_the_data_checks(database: Database) -> None:
    at = scene(database)
    at.start()
    (ref,) = at.refs()
    ruling = at.report(ended(ref, exit_code=0))
    assert at.states() == ["completing"]
    assert at.counted() == 0
    assert [type(message.body) for message in to_publish(database, ruling.aftermath)] == [OutputsReported]
    rows = database.transact(lambda tx: tx.rows(select(attempts)))
    assert [(row.outcome, row.exit_code, row.pilot_id) for row in rows] == [("succeeded", 0, at.pilot_id)]


@pytest.mark.parametrize("outcome", ["succeeded", *BAD])
def test_a_repeated_report_is_accepted_again_and_changes_nothing(database: Database, outcome: str) -> None:
    at = scene(database)
    at.start()
    (ref,) = at.refs()
    first = at.report(ended(ref, outcome))
    before = at.jobs()
    again = at.report(ended(ref, outcome))
    assert first.verdict == again.verdict
    assert again.aftermath.messages == ()
    assert at.jobs() == before


@pytest.mark.parametrize("outcome", ["succeeded", *BAD])
def test_a_report_after_the_job_went_to_another_pilot_is_refused(database: Database, outcome: str) -> None:
    at = scene(database)
    at.start()
    late = at.refs()[0]
    at.move(JobState.RECEIVED)
    at.assign(building.pilot(database, at.site))
    before = at.jobs()
    ruling = at.report(ended(late, outcome))
    assert ruling.verdict.accepted == ()
    assert "superseded" in ruling.verdict.refused[0].reason
    assert at.jobs() == before
    assert database.transact(lambda tx: tx.rows(select(attempts))) == []


def test_a_success_that_never_began_is_refused(database: Database) -> None:
    at = scene(database)
    assert at.report(ended(at.refs()[0])).verdict.accepted == ()
    assert at.states() == ["matched"]


def test_outputs_are_kept_when_they_lie_where_the_attempt_may_write(database: Database) -> None:
    at = scene(database, outputs=["out.txt"])
    at.start()
    (job,), (ref,) = at.jobs(), at.refs()
    path = f"default/{at.campaign_id}/s/{job.id}/a1/out.txt"
    output = ReportedOutput(name="out.txt", url=f"file:///LOCAL-disk/{path}", size=3, adler32="0000000a")
    at.report(ended(ref, outputs=[output]))
    assert at.states() == ["completing"]
    (row,) = database.transact(lambda tx: tx.rows(select(reported_outputs)))
    assert (row.storage_id, row.path, row.size) == (at.site.storage_id, path, 3)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("default/1/s/1/a2/out.txt", "not where this attempt may write"),
        ("default/1/s/1/a1/../a1/out.txt", "not where this attempt may write"),
        (None, "declared outputs are missing: out.txt"),
    ],
)
def test_outputs_elsewhere_or_missing_are_a_payload_failure(database: Database, path: str | None, why: str) -> None:
    at = scene(database, outputs=["out.txt"], retries={"payload": 0})
    at.start()
    (ref,) = at.refs()
    outputs = [] if path is None else [{"name": "out.txt", "url": f"file:///LOCAL-disk/{path}", "size": 3}]
    at.report(ended(ref, outputs=[{**output, "adler32": "0000000a"} for output in outputs]))
    assert at.states() == ["failed"]
    (row,) = database.transact(lambda tx: tx.rows(select(attempts)))
    assert row.outcome == "payload_failed"
    assert why in row.reason


def test_a_first_infrastructure_loss_is_received_at_once_and_a_failed_payload_cools_off(database: Database) -> None:
    at = scene(database, 2)
    at.start()
    lost, failed = at.refs()
    ruling = at.report(ended(lost, "infrastructure_failed"), ended(failed, "payload_failed", exit_code=1))
    assert at.states() == ["received", "received"]
    (message,) = to_publish(database, ruling.aftermath)
    assert isinstance(message.body, JobsReceived)
    assert message.body.job_ids == (lost.job_id,)
    assert at.counted() == 0


def test_the_last_failed_job_of_a_step_makes_the_step_due(database: Database) -> None:
    at = scene(database, retries={"payload": 0})
    at.start()
    ruling = at.report(ended(at.refs()[0], "payload_failed"))
    assert at.states() == ["failed"]
    assert [type(message.body) for message in to_publish(database, ruling.aftermath)] == [StepsDue]


def test_infrastructure_failures_in_a_row_drain_a_pilot_and_a_success_forgives_them(database: Database) -> None:
    at = scene(database, 6)
    at.start()
    refs = at.refs()
    at.report(*(ended(ref, "infrastructure_failed") for ref in refs[:4]))
    assert at.as_pilot(lambda _, pilot: (pilot.failures_in_row, pilot.drains(RULES))) == (4, False)
    at.report(ended(refs[4], "infrastructure_failed"))
    assert at.as_pilot(lambda _, pilot: pilot.drains(RULES))
    at.report(ended(refs[5]))
    assert at.as_pilot(lambda _, pilot: pilot.failures_in_row) == 0


def kill(at: Scene) -> None:
    job_commands.kill(at.database, at.jobs()[0].vo_id, JobFilter(campaign_id=at.campaign_id))


def test_a_kill_between_assignment_and_confirmation_ends_the_job_there(database: Database) -> None:
    at = scene(database)
    kill(at)
    ruling = at.start()
    assert ruling.verdict.refused[0].reason == "killed on request"
    assert at.states() == ["killed"]
    assert at.counted() == 0
    assert [type(message.body) for message in to_publish(database, ruling.aftermath)] == [StepsDue]


@pytest.mark.parametrize(("state", "outcome"), list(product(["matched", "running", "stalled"], ["succeeded", *BAD])))
def test_no_job_that_is_to_be_killed_comes_back(database: Database, state: str, outcome: str) -> None:
    at = scene(database)
    if state != "matched":
        at.start()
    if state == "stalled":
        at.move(JobState.STALLED)
    kill(at)
    assert at.states() == [state]
    at.report(ended(at.refs()[0], outcome))
    never_began = state == "matched" and outcome == "succeeded"
    assert at.states() == ["matched" if never_began else "killed"]
    assert at.counted() == at.occupying()


def test_a_kill_while_completing_or_cooling_off_is_final_too(database: Database) -> None:
    at = scene(database, 2)
    at.start()
    done, failed = at.refs()
    at.report(ended(done), ended(failed, "payload_failed"))
    kill(at)
    assert at.states() == ["completing", "killed"]
    assert at.start([done, failed]).verdict.accepted == ()
    assert at.report(ended(done), ended(failed, "payload_failed")).aftermath.messages == ()
    assert at.states() == ["completing", "killed"]
    assert at.jobs()[0].kill_requested


def test_a_pilot_speaks_for_its_own_jobs_alone(database: Database) -> None:
    at = scene(database)
    other = Scene(database, at.site, building.pilot(database, at.site, vo="other"), at.campaign_id)
    assert other.start(at.refs()).verdict.accepted == ()
    assert other.report(ended(at.refs()[0], "infrastructure_failed")).verdict.accepted == ()
    reply, _ = other.beat(at.refs())
    assert [stop.why for stop in reply.stop] == ["superseded"]
    assert at.states() == ["matched"]


def test_a_pilot_that_ends_loses_what_it_holds_and_may_say_so_twice(database: Database) -> None:
    at = scene(database, 2)
    at.start()
    ending = pilots.Ending(PilotState.DONE, "idle")
    database.transact(lambda tx: pilots.end(tx, at.pilot_id, ending, RULES))
    database.transact(lambda tx: pilots.end(tx, at.pilot_id, ending, RULES))
    assert at.states() == ["received", "received"]
    assert [job.infrastructure_losses for job in at.jobs()] == [1, 1]
    assert at.counted() == 0
    state = database.transact(lambda tx: tx.scalar(select(pilots_table.c.state)))
    assert state == PilotState.DONE
    with pytest.raises(Unauthorized, match="must end itself"):
        at.start()
