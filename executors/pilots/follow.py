"""The pure rules of following pilots: what a batch system's answer means for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from executors.pilots.port import BATCH_ENDED, BatchAnswer, BatchState
from pipeline.store.queue_pilots import BatchPilot
from schemas.states import PILOT_ACTIVE, PILOT_PENDING, PilotState

UNLISTED = 120.0
"""Seconds after its submission until a pilot that the batch system does not list counts as gone."""


@dataclass(frozen=True, slots=True)
class Next:
    """What a pilot becomes, and why."""

    to: PilotState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hearing:
    """The database's time, since when pilots could be heard (None: they can't be now), and when silence means death."""

    now: datetime
    since: datetime | None
    timeout: float

    def silent(self, pilot: BatchPilot) -> bool:
        """Whether the pilot has said nothing for too long while it could have been heard."""
        if self.since is None:
            return False
        last = max(pilot.last_seen or self.since, self.since)
        return self.now - last > timedelta(seconds=self.timeout)


def next_state(pilot: BatchPilot, answer: BatchAnswer | None, hearing: Hearing) -> Next | None:
    """What the batch system's answer makes of a pilot; None: nothing. A pilot's heartbeat outranks the answer."""
    ended = answer is not None and answer.state in BATCH_ENDED
    if pilot.state in PILOT_PENDING:
        if answer is None:
            return _unlisted(pilot, hearing)
        return _ended_unenrolled(pilot, answer) if ended else _pending(pilot, answer)
    if answer is not None and not ended:
        return None
    if not hearing.silent(pilot):
        return None
    reason = "the batch system does not know it any more" if answer is None else answer.reason
    if pilot.remove_requested:
        return Next(PilotState.REMOVED, reason)
    done = answer is not None and answer.state is BatchState.DONE
    return Next(PilotState.DONE if done else PilotState.FAILED, reason)


def _pending(pilot: BatchPilot, answer: BatchAnswer) -> Next | None:
    """A pilot that runs but has not enrolled still counts as queued."""
    to = PilotState.HELD if answer.state is BatchState.HELD else PilotState.QUEUED
    reason = "runs, but has not enrolled yet" if answer.state is BatchState.RUNNING else answer.reason
    if pilot.state is PilotState.REQUESTED:
        return Next(PilotState.SUBMITTED, "found at the batch system")
    return None if pilot.state is to else Next(to, reason)


def _ended_unenrolled(pilot: BatchPilot, answer: BatchAnswer) -> Next:
    if pilot.remove_requested:
        return Next(PilotState.REMOVED, answer.reason)
    return Next(PilotState.FAILED, f"ended before it enrolled: {answer.reason}")


def _unlisted(pilot: BatchPilot, hearing: Hearing) -> Next | None:
    if pilot.state is PilotState.REQUESTED:
        return Next(PilotState.REMOVED, "was not wanted any more") if pilot.remove_requested else None
    since = pilot.submitted_at
    if since is not None and hearing.now - since < timedelta(seconds=UNLISTED):
        return None
    return Next(
        PilotState.REMOVED if pilot.remove_requested else PilotState.FAILED,
        "the batch system does not know it any more",
    )


@dataclass(frozen=True, slots=True)
class Steps:
    """What a poll leads to: state changes of pending pilots, ends of enrolled ones, tags to submit and to remove."""

    moves: tuple[tuple[BatchPilot, Next], ...]
    ends: tuple[tuple[BatchPilot, Next], ...]
    submit: tuple[BatchPilot, ...]
    remove: tuple[str, ...]

    @property
    def stillborn(self) -> tuple[str, ...]:
        """Why pilots ended before they enrolled."""
        return tuple(then.reason for _, then in self.moves if then.to is PilotState.FAILED)


def follow(pilots: Sequence[BatchPilot], answers: Mapping[str, BatchAnswer], hearing: Hearing) -> Steps:
    """What to do about a queue's pilots, given what its batch system knows of them."""
    changes: defaultdict[bool, list[tuple[BatchPilot, Next]]] = defaultdict(list)
    submit, remove = [], []
    for pilot in pilots:
        answer = answers.get(pilot.tag)
        then = next_state(pilot, answer, hearing)
        if then is not None:
            changes[pilot.state in PILOT_PENDING].append((pilot, then))
        elif pilot.state is PilotState.REQUESTED:
            submit.append(pilot)
        if pilot.remove_requested and answer is not None and answer.state not in BATCH_ENDED:
            remove.append(pilot.tag)
    return Steps(tuple(changes[True]), tuple(changes[False]), tuple(submit), tuple(remove))


def healthy(pilots: Iterable[BatchPilot]) -> bool:
    """Whether pilots run on a queue: what went wrong there before is over."""
    return any(pilot.state in PILOT_ACTIVE for pilot in pilots)
