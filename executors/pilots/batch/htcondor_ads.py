"""What the attributes of an HTCondor job say of a pilot. Standard library only: the child process imports it too."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

Ad = Mapping[str, Any]
"""Attributes of one job, those that are not defined left out."""

TAG = "PenstockTag"
FORGOTTEN = "PenstockForgotten"
"""True once the pilot was removed after its end: neither the queue nor the history is believed about it any more."""
STARTS = "PenstockStarts"
"""Starts that are behind the job when it may start (once more): 0, or what a release found."""
ATTRIBUTES = (
    *(TAG, STARTS, "ClusterId", "ProcId", "JobStatus", "RemoteHost", "NumJobStarts", "Out", "Err", "Iwd"),
    *("HoldReason", "HoldReasonCode", "HoldReasonSubCode", "LastHoldReason", "RemoveReason", "EnteredCurrentStatus"),
    *("ExitCode", "ExitBySignal", "ExitSignal"),
)

IDLE, RUNNING, REMOVED, COMPLETED, HELD, TRANSFERRING_OUTPUT, SUSPENDED = range(1, 8)
"""JobStatus."""
SPOOLING_HOLD = 16
"""Jobs are held with this code until their files have come: a submission that was cut off stays so."""
SPENT_HOLDS = frozenset({12, 33, 34, 46, 47})
"""Holds of a pilot that has run: to release it would start another one under the same tag."""

HOLD_WORDS = {
    1: "held by a person",
    3: "by the job's own policy",
    4: "a credential is damaged",
    6: "the executable could not be started",
    7: "the output file could not be opened",
    12: "the output could not be transferred",
    13: "the input could not be transferred",
    14: "the job's folder can't be reached",
    17: "no shadow fits the job",
    21: "the worker node held it",
    23: "the user account can't be used",
    26: "by the site's policy",
    32: "the input is too large",
    33: "the output is too large",
    34: "it took more memory, disk or cores than it had asked for",
    46: "its wall time was over",
    47: "its execution time was over",
}


class Phase(StrEnum):
    """How far a pilot has come."""

    SPOOLING = "spooling"
    QUEUED = "queued"
    HELD = "held"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


ENDED = frozenset({Phase.DONE, Phase.FAILED})


def job_id(ad: Ad) -> str:
    """CLUSTER.PROC."""
    return f"{ad['ClusterId']}.{ad['ProcId']}"


def was_evicted(ad: Ad) -> bool:
    """Whether it waits to be started again: never, since its jobs run elsewhere by then."""
    return bool(ad["JobStatus"] == IDLE and ad.get("NumJobStarts", 0) > ad.get(STARTS, 0))


def phase(ad: Ad) -> Phase:
    """Where the pilot is. One that was removed or held counts as running until its node has let it go."""
    status = ad["JobStatus"]
    if status == COMPLETED:
        return Phase.DONE if not ad.get("ExitBySignal") and ad.get("ExitCode") == 0 else Phase.FAILED
    if status == REMOVED:
        return Phase.RUNNING if "RemoteHost" in ad else Phase.FAILED
    if status == HELD:
        if ad.get("HoldReasonCode") == SPOOLING_HOLD:
            return Phase.SPOOLING
        return Phase.FAILED if ad.get("HoldReasonCode") in SPENT_HOLDS else Phase.HELD
    if status == IDLE:
        return Phase.FAILED if was_evicted(ad) else Phase.QUEUED
    return Phase.RUNNING


def reason(ad: Ad) -> str:
    """Why it is held or has failed; empty for others."""
    status = ad["JobStatus"]
    if status == HELD:
        return _hold_words(ad)
    if status == REMOVED:
        return f"removed: {ad.get('RemoveReason', 'nobody said why')}"
    if was_evicted(ad):
        return "evicted by its worker node"
    if status == COMPLETED and ad.get("ExitBySignal"):
        return f"ended by signal {ad.get('ExitSignal', '?')}"
    return f"exit code {ad.get('ExitCode', '?')}" if status == COMPLETED else ""


def _hold_words(ad: Ad) -> str:
    code = ad.get("HoldReasonCode", 0)
    meaning = HOLD_WORDS.get(code, "")
    known = f"hold code {code}" + (f": {meaning}" if meaning else "")
    if ad.get("HoldReasonSubCode"):
        known += f", subcode {ad['HoldReasonSubCode']}"
    return f"{ad.get('HoldReason', 'no reason given')} ({known})"
