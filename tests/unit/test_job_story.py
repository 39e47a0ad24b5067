"""A job's events become a story: who, where, for how long, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.job_story import Known, Place, tell
from schemas.api import AttemptView, EventView
from schemas.states import JOB_TRANSITIONS, JobState

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
PLACES = {3: Place("A", "long", "wn1", "ended by its batch system"), 4: Place("B", "short", "wn7", None)}


def event(
    second: int, before: str | None, to: str, attempt: int = 0, pilot: int | None = None, *, why: str = ""
) -> EventView:
    return EventView(
        at=NOON + timedelta(seconds=second),
        attempt=attempt,
        from_state=None if before is None else JobState(before),
        to_state=JobState(to),
        reason=why or None,
        pilot_id=pilot,
    )


def known(*attempts: AttemptView, outputs: int = 0, wake_at: datetime | None = None) -> Known:
    return Known("alice", {one.attempt: one for one in attempts}, PLACES, outputs, wake_at)


def ended(attempt: int, outcome: str, exit_code: int | None, minor: str | None = None) -> AttemptView:
    return AttemptView(
        attempt=attempt, outcome=outcome, exit_code=exit_code, reason=None, minor=minor,
        wall_time=9.5, cpu_time=4.25, memory=64, ended_at=NOON,
    )  # fmt: skip


def test_a_job_that_was_held_lost_and_tried_again_tells_all_of_it_in_order() -> None:
    story = tell(
        (
            event(0, None, "received"),
            event(2, "received", "held", why="every site is banned"),
            event(60, "held", "received"),
            event(61, "received", "waiting"),
            event(65, "waiting", "matched", 1, 3),
            event(66, "matched", "running", 1, 3),
            event(200, "running", "stalled", 1, 3, why="its pilot was silent for 134 s"),
            event(400, "stalled", "received", 1, 3, why="its pilot was silent for 334 s"),
            event(401, "received", "waiting", 1),
            event(402, "waiting", "matched", 2, 4),
            event(403, "matched", "running", 2, 4),
            event(413, "running", "completing", 2, 4),
            event(415, "completing", "done", 2, 4),
        ),
        known(ended(2, "succeeded", 0), outputs=2),
    )
    assert [line.text for line in story] == [
        "submitted by alice",
        "held, since no site may run it now; every site is banned",
        "looked at again",
        "went through the optimisers; waits for a pilot that fits",
        "assigned to pilot 3, as attempt 1",
        "began",
        "its pilot is not heard any more; its pilot was silent for 134 s",
        "attempt 1 is over; tried again; its pilot was silent for 334 s; its pilot: ended by its batch system",
        "went through the optimisers; waits for a pilot that fits",
        "assigned to pilot 4, as attempt 2",
        "began",
        "ended; its outputs are looked after; its pilot says succeeded, exit code 0 after 9.5 s, 4.2 s of CPU, 64 MiB",
        "its outputs are registered (2); done",
    ]
    assert [line.seconds for line in story] == [2, 58, 1, 4, 1, 134, 200, 1, 1, 1, 10, 2, None]
    assert [(line.site, line.site_queue, line.node) for line in story[4:6]] == [("A", "long", "wn1")] * 2
    assert story[0].site is story[8].site is None


def test_a_failure_says_what_the_pilot_reported_and_until_when_the_next_try_waits() -> None:
    (line,) = tell(
        (event(0, "running", "received", 1, 4, why="exit code 3"),),
        known(ended(1, "payload_failed", 3, "exit_code"), wake_at=NOON + timedelta(minutes=1)),
    )
    assert line.text == (
        "attempt 1 is over; tried again; its pilot says payload_failed (exit_code), exit code 3 after 9.5 s, "
        "4.2 s of CPU, 64 MiB; exit code 3; looked at again by 2026-01-02 12:01:00 UTC"
    )


@pytest.mark.parametrize(
    ("end", "reported", "words"),
    [
        (event(0, "running", "failed", 1, 3, why="exit code 3"), [ended(1, "payload_failed", 3)], "exit code 3"),
        (event(0, "running", "received", 1, 3, why="exit code 3"), [ended(1, "payload_failed", 3)], "exit code 3"),
        (event(0, "running", "killed", 1, 3, why="killed by alice"), [], "killed by alice"),
        (event(0, "running", "killed", 1, 3, why="killed by alice"), [ended(1, "killed", None)], "killed by alice"),
        (
            event(0, "running", "received", 1, 3, why="its pilot ended: ended by its batch system"),
            [],
            "its pilot ended: ended by its batch system",
        ),
    ],
)
def test_a_pilot_s_last_words_are_not_blamed_for_what_has_a_reason_of_its_own(
    end: EventView, reported: list[AttemptView], words: str
) -> None:
    """They may be of hours later, when it had nothing to do any more; and nothing is said twice."""
    (line,) = tell((end,), known(*reported))
    assert line.text.endswith(f"; {words}")
    assert line.text.count("ended by its batch system") == words.count("ended by its batch system")


@pytest.mark.parametrize(
    ("before", "to"), [(before, to) for before, more in JOB_TRANSITIONS.items() for to in sorted(more)]
)
def test_every_transition_has_words_of_its_own(before: JobState, to: JobState) -> None:
    (line,) = tell((event(0, before, to, 1, 99),), known())
    assert line.text not in {state.value for state in JobState} - {"killed", "done"}
    assert line.site is None, "a pilot that retention has removed"
