"""What somebody who waits for a drain sees."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.progress import Progress

from pipeline.cli import drain_progress, progress
from pipeline.cli.drain_progress import in_words, wait_for_drain
from pipeline.errors import ApiUnavailable, DatabaseUnavailable, PenstockError
from schemas.drain_views import DrainKind, DrainLine, DrainReport, DrainState, Thing

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def report(state: DrainState = DrainState.DRAINING, *lines: DrainLine, **columns: Any) -> DrainReport:
    """A drain of site A that stands so."""
    times = dict.fromkeys(("deadline_at", "drained_at", "lifted_at", "lifted_by"))
    about = {"id": 1, "kind": DrainKind.SITE, "target": "A", "vo": None, "by": "ada", "why": "", "started_at": NOW}
    return DrainReport.model_validate({**about, **times, "kills": False, "state": state, "left": lines, **columns})


def left(what: Thing, count: int, state: str | None = None, **columns: Any) -> DrainLine:
    return DrainLine(what=what, count=count, state=state, why="because", **columns)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_progress, "LOOK", 0.0)
    monkeypatch.setattr(progress, "LOOK", 0.0)


def test_what_is_left_is_added_up_over_sites_and_reasons() -> None:
    lines = (
        left(Thing.JOBS, 1, "running", site="A"),
        left(Thing.JOBS, 2, "running", site="B"),
        left(Thing.PILOTS, 1, "lost"),
        left(Thing.PROCESSES, 2),
        left(Thing.MESSAGES, 9, "deferred", holds=False),
    )
    assert in_words(report(DrainState.DRAINING, *lines)) == "3 running jobs, 1 lost pilot, 2 processes"
    assert in_words(report()) == "nothing"


def test_a_line_is_said_when_something_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    more, less = left(Thing.JOBS, 2, "running"), left(Thing.JOBS, 1, "running")
    looks = [report(DrainState.DRAINING, line) for line in (more, less, less, less)]
    looks.append(report(DrainState.DRAINED, left(Thing.MESSAGES, 1, "deferred", holds=False)))
    last = wait_for_drain(lambda _id: looks.pop(0), report(DrainState.DRAINING, more))
    assert last.state is DrainState.DRAINED
    assert capsys.readouterr().err.splitlines() == [
        "site A: draining, 2 running jobs left",
        "site A: draining, 1 running job left",
        "site A: drained, nothing left",
    ]


def test_waiting_ends_at_the_deadline_unless_what_is_left_is_killed_then(monkeypatch: pytest.MonkeyPatch) -> None:
    overdue = report(DrainState.OVERDUE, left(Thing.JOBS, 1))
    assert wait_for_drain(lambda _id: pytest.fail("it looked again"), overdue) is overdue
    looks = [report(DrainState.OVERDUE, kills=True), report(DrainState.DRAINED, kills=True)]
    assert wait_for_drain(lambda _id: looks.pop(0), looks[0]).state is DrainState.DRAINED
    monkeypatch.setattr(drain_progress, "KILLED_WITHIN", 0.0)
    stuck = report(DrainState.OVERDUE, left(Thing.JOBS, 1, "completing"), kills=True)
    assert wait_for_drain(lambda _id: stuck, stuck) is stuck


def test_a_bar_is_full_when_none_is_left_of_the_most_that_were() -> None:
    with Progress(disable=True) as progress:
        bars = drain_progress._Bars(progress)
        for jobs, pilots in ((2, 1), (4, 1), (1, 1)):
            bars.show(report(DrainState.DRAINING, left(Thing.JOBS, jobs), left(Thing.PILOTS, pilots)))
        bars.show(report(DrainState.OVERDUE, left(Thing.PILOTS, 1)))
        shown = {task.description: (task.completed, task.total, task.fields["counts"]) for task in progress.tasks}
    assert shown == {"jobs": (4, 4, "0 left, overdue"), "pilots": (0, 1, "1 left, overdue")}


@pytest.mark.parametrize("error", [ApiUnavailable("the API is away"), DatabaseUnavailable("the database is away")])
def test_an_outage_does_not_end_the_waiting(error: PenstockError, capsys: pytest.CaptureFixture[str]) -> None:
    looks: list[PenstockError | DrainReport] = [error, report(DrainState.DRAINED)]

    def look(_drain_id: int) -> DrainReport:
        found = looks.pop(0)
        if isinstance(found, DrainReport):
            return found
        raise found

    assert wait_for_drain(look, report()).state is DrainState.DRAINED
    assert f"{error}; the drain goes on, waiting for the" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "seconds"), [(DrainKind.QUEUE, 1.0), (DrainKind.ALL, 5.0)])
def test_jobs_are_counted_less_often_than_processes(
    kind: DrainKind, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(drain_progress, "LOOK", 1.0)
    monkeypatch.setattr(time, "sleep", slept.append)
    wait_for_drain(lambda _id: report(DrainState.DRAINED, kind=kind), report(kind=kind))
    assert slept == [seconds]
