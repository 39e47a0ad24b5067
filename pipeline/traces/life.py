"""A job's life as spans: the whole, every attempt, and every state, one after the other without a gap.

    job                                      the root: from received to its end
    ├── received, waiting, ...               states outside attempts
    ├── attempt                              from the match until its pilot is rid of it; an error unless it was done
    │   └── matched, running, completing     states within it
    └── job again                            what somebody's retry of a failed job led to: sent when that has ended

Spans follow from the events alone: who makes them again makes the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from pipeline.traces.ids import span_id
from schemas.lifecycle import cause_of_end
from schemas.states import JOB_FINAL, JOB_ON_PILOT, JobState

Attributes = Mapping[str, str | int | float]


class Event(NamedTuple):
    """A transition as `job_events` has it."""

    id: int
    job_id: int
    attempt: int
    from_state: JobState | None
    to_state: JobState
    at: datetime
    pilot_id: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Story:
    """What is known of a job whose last event ended it. `pilots` and `reports` are attributes by pilot and attempt."""

    trace_id: str
    attributes: Attributes
    events: Sequence[Event]
    pilots: Mapping[int, Attributes]
    reports: Mapping[int, Attributes]
    outcomes: Mapping[int, str]
    """What pilots reported of attempts, in one word."""
    caller: str | None = None
    """The traceparent that came with the submission."""


@dataclass(frozen=True, slots=True)
class Span:
    """One span of a trace. `error` is empty where nothing went wrong, `links` are traceparents."""

    trace_id: str
    id: str
    parent_id: str | None
    name: str
    start: datetime
    end: datetime
    attributes: Attributes
    error: str = ""
    links: tuple[str, ...] = ()


def spans_of(story: Story) -> list[Span]:
    """The spans of the life that the last event ended, parents first; none where it ended what had ended before."""
    events = _in_order(story.events)
    ends = [place for place, event in enumerate(events) if event.to_state in JOB_FINAL]
    begin = ends[-2] + 1 if len(ends) > 1 else 0
    life = events[begin:]
    if len(life) < 2:
        return []
    whole = _whole(story, life, lives=len(ends))
    return [whole, *_parts(story, whole, begin, life)]


def _in_order(events: Sequence[Event]) -> list[Event]:
    """As they were committed. A transaction that waited for the row has the time at which it began to wait."""
    ordered: list[Event] = []
    for event in events:
        at = max(event.at, ordered[-1].at) if ordered else event.at
        ordered.append(event._replace(at=at))
    return ordered


def _whole(story: Story, life: Sequence[Event], lives: int) -> Span:
    first, last = life[0], life[-1]
    root = span_id(story.trace_id, "job")
    span = Span(
        trace_id=story.trace_id,
        id=root,
        parent_id=None,
        name="job",
        start=first.at,
        end=last.at,
        attributes={
            **story.attributes,
            "penstock.job.state": last.to_state.value,
            "penstock.job.attempts": last.attempt,
            **_reason(last),
        },
        error=(last.reason or "failed") if last.to_state is JobState.FAILED else "",
        links=(story.caller,) if story.caller else (),
    )
    if lives == 1:
        return span
    again = {"penstock.job.retries_by_hand": lives - 1}
    new_id = span_id(story.trace_id, f"job {lives}")
    return replace(span, id=new_id, parent_id=root, name="job again", attributes={**span.attributes, **again}, links=())


def _parts(story: Story, whole: Span, begin: int, life: Sequence[Event]) -> Iterator[Span]:
    parent = whole
    for place, (event, following) in enumerate(pairwise(life), begin):
        if event.to_state not in JOB_ON_PILOT:
            parent = whole
        elif parent is whole:
            parent = _attempt(story, whole, life[place - begin :])
            yield parent
        yield Span(
            trace_id=story.trace_id,
            id=span_id(story.trace_id, f"event {place}"),
            parent_id=parent.id,
            name=event.to_state.value,
            start=event.at,
            end=following.at,
            attributes=_reason(event),
        )


def _attempt(story: Story, whole: Span, rest: Sequence[Event]) -> Span:
    """The attempt whose first event is the first of `rest`."""
    first = rest[0]
    before, last = next((one, other) for one, other in pairwise(rest) if other.to_state not in JOB_ON_PILOT)
    attributes = {
        "penstock.attempt": first.attempt,
        **story.pilots.get(first.pilot_id or 0, {}),
        **story.reports.get(first.attempt, {}),
    }
    error = ""
    if last.to_state is not JobState.DONE:
        cause = cause_of_end(before.to_state, last.to_state, story.outcomes.get(first.attempt))
        attributes |= {"error.type": cause, **_reason(last)}
        error = "" if last.to_state is JobState.KILLED else last.reason or cause
    return Span(
        trace_id=story.trace_id,
        id=span_id(story.trace_id, f"attempt {first.attempt}"),
        parent_id=whole.id,
        name="attempt",
        start=first.at,
        end=last.at,
        attributes=attributes,
        error=error,
    )


def _reason(event: Event) -> Attributes:
    return {"penstock.reason": event.reason} if event.reason else {}
