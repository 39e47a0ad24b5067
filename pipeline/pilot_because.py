"""Why a pilot is as it is, in sentences that say what to do where somebody can do something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from schemas.states import PILOT_ACTIVE, PILOT_FINAL, PILOT_PENDING, PilotState


@dataclass(frozen=True, slots=True)
class PilotFacts:
    """What is known of a pilot and its site queue; `backoff_until` is None where the queue is not left alone now."""

    state: PilotState
    reason: str | None
    jobs: int
    releases: int
    failures_in_row: int
    max_failures: int
    remove_requested: bool
    drain_requested: bool
    submitted_at: datetime | None
    held_at: datetime | None
    last_seen: datetime | None
    queue: str
    queue_declared: bool
    backoff_until: datetime | None
    backoff_reason: str | None
    dead_letter_id: int | None


def reasons(pilot: PilotFacts) -> Iterator[str]:
    """The weightiest first."""
    if pilot.state in PILOT_FINAL:
        yield pilot.reason or "it has ended by itself"
        return
    if pilot.remove_requested:
        yield f"{pilot.reason or 'it is not wanted any more'}: its batch system removes it at the queue's next round"
    if pilot.state in PILOT_PENDING:
        yield from _pending(pilot)
    elif pilot.state is PilotState.LOST:
        seen = f" since {_moment(pilot.last_seen)}" if pilot.last_seen else ""
        yield f"it is silent{seen}; its jobs have started again elsewhere, and it goes on if it is heard again"
    elif pilot.state in PILOT_ACTIVE and not pilot.remove_requested:
        yield from _active(pilot)


def _pending(pilot: PilotFacts) -> Iterator[str]:
    if pilot.dead_letter_id is not None:
        yield (
            f"the message of {pilot.queue} is dead letter {pilot.dead_letter_id}: an operator decides with `penstock "
            f"dead show {pilot.dead_letter_id}` and `penstock dead requeue {pilot.dead_letter_id}`"
        )
    if pilot.backoff_until is not None:
        yield f"{pilot.queue} is left alone until {_moment(pilot.backoff_until)}: {pilot.backoff_reason}"
    if pilot.state is PilotState.HELD:
        since = f" since {_moment(pilot.held_at)}" if pilot.held_at else ""
        again = f"; let go on {_times(pilot.releases)} so far" if pilot.releases else ""
        yield f"its batch system holds it{since}: {pilot.reason or 'it does not say why'}{again}"
    elif pilot.state is PilotState.REQUESTED:
        if not pilot.remove_requested:
            yield f"it is submitted at the next round of {pilot.queue}"
    else:
        since = f" since {_moment(pilot.submitted_at)}" if pilot.submitted_at else ""
        said = f": {pilot.reason}" if pilot.reason and not pilot.remove_requested else ""
        yield f"it waits in its batch system{since}{said}"


def _active(pilot: PilotFacts) -> Iterator[str]:
    after = f"ends after the {pilot.jobs} that it has" if pilot.jobs > 1 else "ends after the one that it has"
    end = f"it takes no more jobs, and {after if pilot.jobs else 'ends'}"
    if pilot.drain_requested:
        yield f"{pilot.reason or 'it was told to drain'}: {end}"
    elif pilot.failures_in_row >= pilot.max_failures:
        yield f"its node has failed {pilot.failures_in_row} jobs in a row: {end}"
    elif not pilot.queue_declared:
        yield f"{pilot.queue} is declared no more: {end}"
    elif pilot.state is PilotState.DRAINING:
        yield f"{pilot.reason or 'it drains'}: {end}"
    elif not pilot.jobs:
        yield "it runs and asks for jobs; `penstock jobs why ID` says why a job does not come to it"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
