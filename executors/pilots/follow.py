"""The pure rules of following pilots: what a batch system's answer means for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from executors.pilots.port import BATCH_ENDED, BatchAnswer, BatchState
from pipeline.store.queue_pilots import BatchPilot
from schemas.states import PILOT_ACTIVE, PILOT_FINAL, PILOT_PENDING, PilotState

UNLISTED = 120.0
"""Seconds after its submission until a pilot that the batch system does not list counts as gone."""
FIRST_RELEASE = 60.0
"""Seconds until a held pilot is released; after each release that did not help, twice as long."""
MOST_RELEASES = 10
LAST_WORDS = 120.0
"""Seconds after a pilot's end until its batch system knows of it too: if it says then that the job goes on, the job is
removed; if it knows none, there is nothing to be fetched."""
UNCOUPLED = "too few for a batch job of {} nodes were left"
RUNS = "runs, but has not enrolled yet"


@dataclass(frozen=True, slots=True)
class Next:
    """What a pilot becomes, and why; `unwanted`: from now on it is to be removed."""

    to: PilotState
    reason: str = ""
    runs: bool = False
    """Whether the batch system says that it runs, though it has not enrolled."""
    unwanted: bool = False


@dataclass(frozen=True, slots=True)
class Hearing:
    """The database's time, since when pilots could be heard (None: they can't be now), when silence means death, and
    when a pilot that runs without having enrolled is in trouble (`enrol_limit`). Seconds."""

    now: datetime
    since: datetime | None
    timeout: float
    enrol_limit: float = 600.0

    def silent(self, pilot: BatchPilot) -> bool:
        """Whether the pilot has said nothing for too long while it could have been heard."""
        if self.since is None:
            return False
        last = max(pilot.last_seen or self.since, self.since)
        return self.past(last, self.timeout)

    def past(self, moment: datetime | None, seconds: float) -> bool:
        """Whether more than so many seconds have passed since."""
        return moment is not None and self.now - moment > timedelta(seconds=seconds)


def next_state(pilot: BatchPilot, answer: BatchAnswer | None, hearing: Hearing) -> Next | None:
    """What the batch system's answer makes of a pilot; None: nothing. A pilot's heartbeat outranks the answer."""
    ended = answer is not None and answer.state in BATCH_ENDED
    if pilot.state in PILOT_PENDING:
        if answer is None:
            return _unlisted(pilot, hearing)
        return _ended_unenrolled(pilot, answer) if ended else _pending(pilot, answer, hearing)
    if answer is not None and not ended:
        return None
    if not hearing.silent(pilot):
        return None
    reason = "the batch system does not know it any more" if answer is None else answer.reason
    if pilot.remove_requested:
        return Next(PilotState.REMOVED, pilot.reason or reason)
    done = answer is not None and answer.state is BatchState.DONE
    return Next(PilotState.DONE if done else PilotState.FAILED, reason)


def release_due(pilot: BatchPilot, hearing: Hearing) -> bool:
    """Whether a held pilot has been held for long enough since it was, or was released last."""
    return hearing.past(pilot.held_at, FIRST_RELEASE * 2**pilot.releases)


def _pending(pilot: BatchPilot, answer: BatchAnswer, hearing: Hearing) -> Next | None:
    """A pilot that runs but has not enrolled still counts as queued."""
    if pilot.state is PilotState.REQUESTED:
        return Next(PilotState.SUBMITTED, pilot.reason if pilot.remove_requested else "found at the batch system")
    runs = answer.state is BatchState.RUNNING
    to = PilotState.HELD if answer.state is BatchState.HELD else PilotState.QUEUED
    reason = answer.reason
    if runs:
        late = hearing.past(pilot.runs_since, hearing.enrol_limit)
        reason = f"runs for more than {hearing.enrol_limit:g} s, but has not enrolled" if late else RUNS
    if pilot.remove_requested:  # why it is unwanted outlives what is said of it meanwhile
        reason = pilot.reason
    elif to is PilotState.HELD and pilot.releases >= MOST_RELEASES and release_due(pilot, hearing):
        return Next(to, f"released {pilot.releases} times, and held again: {reason}", unwanted=True)
    if (to, reason, runs) == (pilot.state, pilot.reason, pilot.runs_since is not None):
        return None
    return Next(to, reason, runs)


def _ended_unenrolled(pilot: BatchPilot, answer: BatchAnswer) -> Next:
    if pilot.remove_requested:
        return Next(PilotState.REMOVED, pilot.reason or answer.reason)
    return Next(PilotState.FAILED, f"ended before it enrolled: {answer.reason}")


def _unlisted(pilot: BatchPilot, hearing: Hearing) -> Next | None:
    if pilot.state is PilotState.REQUESTED:
        return Next(PilotState.REMOVED, pilot.reason or "was not wanted any more") if pilot.remove_requested else None
    if pilot.submitted_at is not None and not hearing.past(pilot.submitted_at, UNLISTED):
        return None
    if pilot.remove_requested:
        return Next(PilotState.REMOVED, pilot.reason)
    return Next(PilotState.FAILED, "the batch system does not know it any more")


@dataclass(slots=True)
class Steps:
    """What a poll leads to. Tags to remove come in whole batch jobs."""

    moves: list[tuple[BatchPilot, Next]] = field(default_factory=list)
    """State changes of pilots that have not enrolled."""
    ends: list[tuple[BatchPilot, Next]] = field(default_factory=list)
    """Ends of those that have."""
    submit: list[BatchPilot] = field(default_factory=list)
    release: list[BatchPilot] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    collect: list[BatchPilot] = field(default_factory=list)
    """Those whose output somebody wants, or whose batch job has ended."""
    over: list[str] = field(default_factory=list)
    """Tags that the batch system may forget."""
    trouble: str = ""
    """What is wrong with the queue: nothing is submitted there for a while."""


def follow(pilots: Sequence[BatchPilot], answers: Mapping[str, BatchAnswer], hearing: Hearing, nodes: int = 1) -> Steps:
    """What to do about a queue's pilots, given what its batch system knows of them. `nodes`: of one batch job."""
    steps = Steps()
    unwanted = []
    for pilot in pilots:
        answer = answers.get(pilot.tag)
        if pilot.state in PILOT_FINAL:
            late = hearing.past(pilot.ended_at, LAST_WORDS)
            if late and answer is not None and answer.state not in BATCH_ENDED:
                unwanted.append(pilot)
            elif late or (answer is not None and answer.state in BATCH_ENDED):
                _collect(steps, pilot, answer)
            continue
        then = next_state(pilot, answer, hearing)
        if then is not None:
            (steps.moves if pilot.state in PILOT_PENDING else steps.ends).append((pilot, then))
            if then.to in PILOT_FINAL and answer is not None:
                _collect(steps, pilot, answer)
        elif pilot.state is PilotState.REQUESTED:
            steps.submit.append(pilot)
        if answer is None or answer.state in BATCH_ENDED:
            continue
        if pilot.remove_requested or (then is not None and then.unwanted) or _held_for_good(pilot, answer, hearing):
            unwanted.append(pilot)
        elif answer.state is BatchState.HELD and release_due(pilot, hearing):
            steps.release.append(pilot)
        if pilot.output_wanted_at is not None:
            steps.collect.append(pilot)
    steps.remove = _whole_jobs(unwanted, pilots) if nodes > 1 else [pilot.tag for pilot in unwanted]
    _drop_uncoupled(steps, nodes)
    steps.trouble = _trouble(steps, pilots, hearing)
    return steps


def _collect(steps: Steps, pilot: BatchPilot, answer: BatchAnswer | None) -> None:
    steps.collect.append(pilot)
    if answer is not None:
        steps.over.append(pilot.tag)


def _whole_jobs(unwanted: Sequence[BatchPilot], pilots: Iterable[BatchPilot]) -> list[str]:
    """The tags of those whose batch job no other pilot of the queue still needs: its nodes end together."""
    ids = {pilot.id for pilot in unwanted}
    needed = {pilot.batch_job for pilot in pilots if pilot.id not in ids and pilot.state not in PILOT_FINAL} - {None}
    return [pilot.tag for pilot in unwanted if pilot.batch_job not in needed]


def _held_for_good(pilot: BatchPilot, answer: BatchAnswer, hearing: Hearing) -> bool:
    """Whether it was held while it ran: started again, it would be another pilot with the same tag."""
    return pilot.state not in PILOT_PENDING and answer.state is BatchState.HELD and hearing.silent(pilot)


def _drop_uncoupled(steps: Steps, nodes: int) -> None:
    """Pilots of one VO are submitted in whole batch jobs; what is left over by a loss is not wanted."""
    by_vo: dict[int, list[BatchPilot]] = {}
    for pilot in steps.submit:
        by_vo.setdefault(pilot.vo_id, []).append(pilot)
    steps.submit = []
    for mine in by_vo.values():
        whole = len(mine) - len(mine) % nodes
        steps.submit += mine[:whole]
        steps.moves += [(pilot, Next(PilotState.REMOVED, UNCOUPLED.format(nodes))) for pilot in mine[whole:]]


def _trouble(steps: Steps, pilots: Sequence[BatchPilot], hearing: Hearing) -> str:
    stillborn = [then.reason for _, then in steps.moves if then.to is PilotState.FAILED]
    if stillborn:
        return f"{len(stillborn)} pilots failed to start; the last one {stillborn[-1]}"
    given_up = [then.reason for _, then in steps.moves if then.unwanted]
    if given_up:
        return f"{len(given_up)} held pilots were given up; the last one was {given_up[-1]}"
    late = sum(
        pilot.state is PilotState.QUEUED and hearing.past(pilot.runs_since, hearing.enrol_limit) for pilot in pilots
    )
    if late and not healthy(pilots):
        return f"{late} pilots start but never enrol: can the queue's nodes reach the API?"
    return ""


def healthy(pilots: Iterable[BatchPilot]) -> bool:
    """Whether pilots run on a queue: what went wrong there before is over."""
    return any(pilot.state in PILOT_ACTIVE for pilot in pilots)
