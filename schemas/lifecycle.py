"""What becomes of a job when an attempt ends badly: pure rules, used by the API, upkeep and data checks."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.campaign import Retries
from schemas.outcomes import Backoff
from schemas.states import JobState


@dataclass(frozen=True, slots=True)
class Losses:
    """What a job has lost so far, by budget, and whether somebody wants it killed."""

    infrastructure: int
    payload: int
    kill_requested: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the job goes, after how many seconds of cool-off (None: it goes nowhere), and its counters then."""

    to: JobState
    wait: float | None
    infrastructure: int
    payload: int
    reason: str


def cause_of_end(from_state: str | None, to_state: str, outcome: str | None) -> str:
    """Why an attempt that was not done ended, in one word, of which there are few. `outcome` is what its pilot said."""
    if from_state == JobState.FAILED:
        return "by_hand"
    if to_state == JobState.KILLED:
        return "killed"
    if from_state == JobState.MATCHED:
        return "unconfirmed"
    if from_state == JobState.COMPLETING or outcome == "succeeded":
        return "outputs_lost"
    return outcome or "pilot_lost"


def after_infrastructure_loss(losses: Losses, retries: Retries, cool_off: Backoff, reason: str) -> Verdict:
    """The pilot is gone, the node is bad or a storage lost the output: not the payload's fault."""
    count = losses.infrastructure + 1
    if losses.kill_requested:
        return Verdict(JobState.KILLED, None, count, losses.payload, reason)
    if count > retries.infrastructure:
        spent = f"{reason}; {retries.infrastructure} retries after infrastructure losses are spent"
        return Verdict(JobState.FAILED, None, count, losses.payload, spent)
    return Verdict(JobState.RECEIVED, 0.0 if count == 1 else cool_off.ceiling(count - 1), count, losses.payload, reason)


def after_payload_failure(losses: Losses, retries: Retries, cool_off: Backoff, reason: str) -> Verdict:
    """The command itself failed."""
    count = losses.payload + 1
    if losses.kill_requested:
        return Verdict(JobState.KILLED, None, losses.infrastructure, count, reason)
    if count > retries.payload:
        return Verdict(JobState.FAILED, None, losses.infrastructure, count, reason)
    return Verdict(JobState.RECEIVED, cool_off.ceiling(count), losses.infrastructure, count, reason)
