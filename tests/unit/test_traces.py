"""Traces: ids that everybody agrees on, and spans that tell the whole of a job's life, each once and without a gap."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from pipeline.errors import BadSettings
from pipeline.settings import Settings
from pipeline.settings_check import check_settings
from pipeline.traces import ids
from pipeline.traces.life import Attributes, Event, Span, Story, spans_of
from pipeline.traces.port import open_exporter
from pipeline.trigger import find_triggers
from schemas.states import JOB_FINAL, JOB_ON_PILOT, JOB_TRANSITIONS, JobState

BEGAN = datetime(2026, 11, 21, 10, tzinfo=UTC)
TRACE = ids.trace_id(7, BEGAN)
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def story(*steps: tuple[JobState, float], outcomes: dict[int, str] | None = None, caller: str | None = None) -> Story:
    """A job that came to these states, each so many seconds after the one before."""
    at, before, attempt = BEGAN, None, 0
    events: list[Event] = []
    for number, (state, seconds) in enumerate(steps, 1):
        at += timedelta(seconds=seconds)
        attempt += state is JobState.MATCHED
        events.append(Event(number, 7, attempt, before, state, at, 3 if attempt else None, f"why {number}"))
        before = state
    place: Attributes = {"penstock.pilot.id": 3, "penstock.site": "LOCAL"}
    return Story(
        TRACE, {"penstock.job.id": 7}, events, {3: place}, {1: {"process.exit.code": 4}}, outcomes or {}, caller
    )


def told(found: list[Span]) -> list[tuple[str, float, float, str]]:
    """Names, and seconds since it began, from and to; what went wrong."""
    return [
        (span.name, (span.start - BEGAN).total_seconds(), (span.end - BEGAN).total_seconds(), span.error)
        for span in found
    ]


FAILED_ONCE = (
    (JobState.RECEIVED, 0), (JobState.WAITING, 1), (JobState.MATCHED, 1), (JobState.RUNNING, 1),
    (JobState.RECEIVED, 1), (JobState.WAITING, 1), (JobState.MATCHED, 1), (JobState.RUNNING, 1),
    (JobState.COMPLETING, 1), (JobState.DONE, 1),
)  # fmt: skip


def test_a_job_that_was_done_at_the_second_attempt_is_told_as_it_happened() -> None:
    found = spans_of(story(*FAILED_ONCE, outcomes={1: "payload_failed", 2: "succeeded"}, caller=CALLER))
    assert told(found) == [
        ("job", 0, 9, ""),
        ("received", 0, 1, ""),
        ("waiting", 1, 2, ""),
        ("attempt", 2, 4, "why 5"),
        ("matched", 2, 3, ""),
        ("running", 3, 4, ""),
        ("received", 4, 5, ""),
        ("waiting", 5, 6, ""),
        ("attempt", 6, 9, ""),
        ("matched", 6, 7, ""),
        ("running", 7, 8, ""),
        ("completing", 8, 9, ""),
    ]
    job, first, second = found[0], found[3], found[8]
    assert (job.links, job.attributes["penstock.job.state"], job.attributes["penstock.job.attempts"]) == (
        (CALLER,), "done", 2,
    )  # fmt: skip
    assert first.attributes == {
        "penstock.attempt": 1,
        "penstock.pilot.id": 3,
        "penstock.site": "LOCAL",
        "process.exit.code": 4,
        "error.type": "payload_failed",
        "penstock.reason": "why 5",
    }
    assert "error.type" not in second.attributes


@pytest.mark.parametrize(
    ("last", "outcome", "cause", "error"),
    [
        ((JobState.MATCHED, JobState.WAITING), None, "unconfirmed", True),
        ((JobState.MATCHED, JobState.RUNNING, JobState.STALLED, JobState.RECEIVED), None, "pilot_lost", True),
        (
            (JobState.MATCHED, JobState.RUNNING, JobState.COMPLETING, JobState.RECEIVED),
            "succeeded",
            "outputs_lost",
            True,
        ),
        ((JobState.MATCHED, JobState.RUNNING, JobState.KILLED), None, "killed", False),
    ],
)
def test_an_attempt_says_in_one_word_why_it_was_not_done(
    last: tuple[JobState, ...], outcome: str | None, cause: str, error: bool
) -> None:
    states = (JobState.RECEIVED, JobState.WAITING, *last)
    ended = () if last[-1] in JOB_FINAL else (JobState.KILLED,)
    outcomes = {} if outcome is None else {1: outcome}
    found = spans_of(story(*((state, 1.0) for state in (*states, *ended)), outcomes=outcomes))
    (attempt,) = (span for span in found if span.name == "attempt")
    assert (attempt.attributes["error.type"], bool(attempt.error)) == (cause, error)


def test_a_failed_job_that_somebody_retries_goes_on_in_its_trace() -> None:
    steps = [(state, 1.0) for state in (JobState.RECEIVED, JobState.FAILED, JobState.RECEIVED, JobState.KILLED)]
    first, again = spans_of(story(*steps[:2], caller=CALLER)), spans_of(story(*steps, caller=CALLER))
    assert [(span.name, span.error) for span in first] == [("job", "why 2"), ("received", "")]
    assert [(span.name, span.error, span.links) for span in again] == [("job again", "", ()), ("received", "", ())]
    assert (first[0].parent_id, again[0].parent_id) == (None, first[0].id)
    assert again[0].attributes["penstock.job.retries_by_hand"] == 1
    assert {span.trace_id for span in (*first, *again)} == {TRACE}


def test_an_end_after_an_end_has_no_spans_of_its_own() -> None:
    assert spans_of(story((JobState.RECEIVED, 0), (JobState.FAILED, 1), (JobState.KILLED, 1))) == []


def test_the_time_at_which_a_transaction_began_to_wait_for_the_row_is_no_time_before_the_last_event() -> None:
    found = spans_of(
        story((JobState.RECEIVED, 0), (JobState.WAITING, 5), (JobState.RECEIVED, -2), (JobState.KILLED, 3))
    )
    assert told(found) == [("job", 0, 6, ""), ("received", 0, 5, ""), ("waiting", 5, 5, ""), ("received", 5, 6, "")]


@st.composite
def histories(draw: st.DrawFn) -> Story:
    """A job's way from state to state, as the table allows, until it ends for the second time at the latest."""
    steps, ends = [(JobState.RECEIVED, 0.0)], 0
    while ends < 2 and JOB_TRANSITIONS[steps[-1][0]]:
        state = draw(st.sampled_from(sorted(JOB_TRANSITIONS[steps[-1][0]])))
        ends += state in JOB_FINAL
        steps.append((state, draw(st.floats(-1, 100))))
    return story(*steps)


@given(histories())
def test_the_spans_of_any_history_are_one_tree_without_gaps_and_tell_every_event_once(whole: Story) -> None:
    ends = [place for place, event in enumerate(whole.events, 1) if event.to_state in JOB_FINAL]
    lives = [spans_of(Story(TRACE, {}, whole.events[:end], {}, {}, {})) for end in ends]
    everything = [span for life in lives for span in life]
    by_id = {span.id: span for span in everything}
    assert len(by_id) == len(everything)
    assert [span.name for span in everything if span.parent_id is None] == ["job"]
    assert all(span.parent_id is None or span.parent_id in by_id for span in everything)
    states = [span.name for span in everything if span.name in set(JobState)]
    assert states == [event.to_state for event in whole.events if event.to_state not in JOB_FINAL]
    entered = [
        after for before, after in pairwise(whole.events)
        if after.to_state in JOB_ON_PILOT and before.to_state not in JOB_ON_PILOT
    ]  # fmt: skip
    assert len([span for span in everything if span.name == "attempt"]) == len(entered)
    for life in lives:
        for parent in life:
            children = [span for span in life if span.parent_id == parent.id]
            if children:
                assert (children[0].start, children[-1].end) == (parent.start, parent.end)
                assert all(one.end == other.start for one, other in pairwise(children))
            assert parent.start <= parent.end


def test_ids_are_the_same_in_every_process_and_release_and_differ_where_jobs_do() -> None:
    assert ids.trace_id(7, BEGAN) == "1161239f645e34a669fc8441ef271b36"
    elsewhere = timedelta(microseconds=1)
    assert len({ids.trace_id(7, BEGAN), ids.trace_id(8, BEGAN), ids.trace_id(7, BEGAN + elsewhere)}) == 3


@given(st.integers(1, 1 << 40), st.floats(0, 1), st.floats(0, 1))
def test_everybody_agrees_which_jobs_are_traced_and_a_larger_share_holds_those_of_a_smaller(
    job_id: int, one: float, other: float
) -> None:
    trace = ids.trace_id(job_id, BEGAN)
    small, large = sorted((one, other))
    assert ids.is_traced(trace, small) <= ids.is_traced(trace, large)
    theirs = TraceIdRatioBased(large).should_sample(None, int(trace, 16), "job").decision
    assert ids.is_traced(trace, large) == (theirs is Decision.RECORD_AND_SAMPLE)


def test_all_or_none_or_about_the_share_of_jobs_are_traced() -> None:
    traces = [ids.trace_id(job_id, BEGAN) for job_id in range(1, 5001)]
    many = [sum(ids.is_traced(trace, share) for trace in traces) for share in (0.0, 0.1, 1.0)]
    assert (many[0], many[2]) == (0, 5000)
    assert 400 < many[1] < 600


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (CALLER, CALLER),
        (f" {CALLER} ", CALLER),
        (f"01{CALLER[2:]}-and-more", CALLER),
        (f"{CALLER}-and-more", None),
        (f"ff{CALLER[2:]}", None),
        (CALLER.upper(), None),
        (CALLER.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), None),
        (CALLER.replace("b7ad6b7169203331", "0" * 16), None),
        ("", None),
        (None, None),
    ],
)
def test_a_traceparent_is_kept_when_it_is_one(header: str | None, kept: str | None) -> None:
    assert ids.traceparent(header) == kept


def test_ticks_come_where_there_is_a_place_for_traces() -> None:
    assert "traces" not in find_triggers(Settings())
    assert "traces" not in find_triggers(Settings(schedules={"traces": "* * * * * *"}))
    assert "traces" in find_triggers(Settings(traces_url="http://127.0.0.1:4318"))


@pytest.mark.parametrize("ask", [open_exporter, lambda url: check_settings(Settings(traces_url=url))])
def test_what_is_no_url_is_a_bad_setting(ask: Callable[[str], object]) -> None:
    with pytest.raises(BadSettings, match=r"PENSTOCK_TRACES_URL: 'http://\[::1' is no URL"):
        ask("http://[::1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "nobody"),
    ],
)
def test_what_the_library_refuses_of_its_own_variables_is_a_bad_setting(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSettings, match="PENSTOCK_TRACES_URL: its library refuses"):
        open_exporter("http://127.0.0.1:4318")


@pytest.mark.parametrize("ask", [open_exporter, lambda url: check_settings(Settings(traces_url=url))])
def test_what_nothing_serves_is_told_with_what_there_is(ask: Callable[[str], object]) -> None:
    with pytest.raises(BadSettings, match=r"serves 'zipkin'; there are http, https"):
        ask("zipkin://127.0.0.1:9411")


PROGRAM = """
import sys
import consumers.upkeep, executors.upkeep.shell, pipeline.api.app, pipeline.cli.main, pipeline.runtime.worker
import triggers.loop
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.traces.port import open_exporter
assert executors.upkeep.shell.DUTIES["traces"](Context(Settings(), Database("sqlite://"), "test")) == []
"""

ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
"""


def run(program: str) -> str:
    """What a program prints. OpenTelemetry's API itself is there always: FastAPI imports it."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_nothing_that_makes_or_sends_traces_is_imported_where_no_place_for_them_is_set() -> None:
    found = run(PROGRAM + "print(*(n for n in sys.modules if n.startswith('opentelemetry.exporter') or 'otlp' in n))")
    assert found == "\n"


def test_without_opentelemetry_everything_else_works_and_a_place_for_traces_says_what_to_install() -> None:
    asked = "try: open_exporter('http://127.0.0.1:4318')\nexcept Exception as error: print(repr(error))"
    assert "pip install 'penstock[traces]'" in run(ABSENT + PROGRAM + asked)
