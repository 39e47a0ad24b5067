"""A job's story: its events, in the words of whoever waits for it. Pure: from what is stored to lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from schemas.api import AttemptView, EventView
from schemas.states import JOB_OCCUPYING, JOB_ON_PILOT, JobState
from schemas.story import StoryLine

_PLAIN: Mapping[tuple[JobState, JobState], str] = {
    (JobState.RECEIVED, JobState.WAITING): "went through the optimisers; waits for a pilot that fits",
    (JobState.RECEIVED, JobState.STAGING): "its input files are brought online",
    (JobState.STAGING, JobState.RECEIVED): "its input files are there",
    (JobState.RECEIVED, JobState.HELD): "held, since no site may run it now",
    (JobState.HELD, JobState.RECEIVED): "looked at again",
    (JobState.WAITING, JobState.RECEIVED): "taken back from the waiting ones, to be looked at again",
    (JobState.MATCHED, JobState.RUNNING): "began",
    (JobState.MATCHED, JobState.WAITING): "not confirmed by the pilot in time; waits again",
    (JobState.RUNNING, JobState.STALLED): "its pilot is not heard any more",
    (JobState.STALLED, JobState.RUNNING): "its pilot is heard again",
    (JobState.FAILED, JobState.RECEIVED): "started again by hand, its retry budgets fresh",
}
_ENDS: Mapping[JobState, str] = {
    JobState.COMPLETING: "ended; its outputs are looked after",
    JobState.FAILED: "failed, and is not tried again",
    JobState.KILLED: "killed",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pilot runs, and what was said of it last."""

    site: str
    site_queue: str
    node: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one job beside its events."""

    owner: str
    attempts: Mapping[int, AttemptView]
    """What pilots reported, by attempt."""
    places: Mapping[int, Place]
    """By pilot."""
    outputs: int
    """Files that are registered."""
    wake_at: datetime | None
    """When a received one is looked at again."""


def tell(events: Sequence[EventView], known: Known) -> tuple[StoryLine, ...]:
    """A line for each event, in order."""
    following = [*(b.at for _, b in pairwise(events)), None]
    return tuple(
        _line(event, until, known, is_last=until is None) for event, until in zip(events, following, strict=True)
    )


def _line(event: EventView, until: datetime | None, known: Known, *, is_last: bool) -> StoryLine:
    place = known.places.get(event.pilot_id) if event.pilot_id is not None else None
    return StoryLine(
        at=event.at,
        state=event.to_state,
        seconds=None if until is None else max(0.0, (until - event.at).total_seconds()),
        attempt=event.attempt,
        text="; ".join(_words(event, known, place, is_last=is_last)),
        pilot_id=event.pilot_id,
        site=place.site if place else None,
        site_queue=place.site_queue if place else None,
        node=place.node if place else None,
    )


def _words(event: EventView, known: Known, place: Place | None, *, is_last: bool) -> Iterator[str]:
    before, to = event.from_state, event.to_state
    lost = before in JOB_ON_PILOT and to not in JOB_ON_PILOT and to is not JobState.DONE
    yield _what(event, known, lost=lost)
    if before in JOB_OCCUPYING and to not in JOB_OCCUPYING and event.attempt in known.attempts:
        yield _reported(known.attempts[event.attempt])
    if event.reason:
        yield event.reason
    if lost and place is not None and place.reason and _was_cut_off(event, known, place.reason):
        yield f"its pilot: {place.reason}"
    if is_last and to is JobState.RECEIVED and known.wake_at is not None:
        yield f"looked at again by {known.wake_at:%Y-%m-%d %H:%M:%S} UTC"


def _was_cut_off(event: EventView, known: Known, last_words: str) -> bool:
    """Whether a pilot's last words may say why the attempt ended: nobody else did."""
    if event.to_state is JobState.KILLED or event.attempt in known.attempts:
        return False
    return not (event.reason or "").endswith(last_words)


def _what(event: EventView, known: Known, *, lost: bool) -> str:
    before, to = event.from_state, event.to_state
    if before is None:
        return f"submitted by {known.owner}"
    if to is JobState.MATCHED:
        return f"assigned to pilot {event.pilot_id}, as attempt {event.attempt}"
    if to is JobState.DONE:
        return f"its outputs are registered ({known.outputs}); done" if known.outputs else "done"
    if to is JobState.RECEIVED and lost:
        return f"attempt {event.attempt} is over; tried again"
    return _PLAIN.get((before, to)) or _ENDS.get(to) or to.value


def _reported(attempt: AttemptView) -> str:
    """What its pilot said of an attempt."""
    code = "" if attempt.exit_code is None else f", exit code {attempt.exit_code}"
    why = f" ({attempt.minor})" if attempt.minor else ""
    took = f"{attempt.wall_time:.1f} s, {attempt.cpu_time:.1f} s of CPU, {attempt.memory} MiB"
    return f"its pilot says {attempt.outcome}{why}{code} after {took}"
