"""The state machines: which states there are and which may follow which.

`job_events` holds nothing but transitions of `JOB_TRANSITIONS`; the diagrams in the docs are made
from these tables (`make docs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class JobState(StrEnum):
    RECEIVED = "received"
    HELD = "held"
    STAGING = "staging"
    WAITING = "waiting"
    MATCHED = "matched"
    RUNNING = "running"
    STALLED = "stalled"
    COMPLETING = "completing"
    DONE = "done"
    FAILED = "failed"
    KILLED = "killed"


class PilotState(StrEnum):
    REQUESTED = "requested"
    SUBMITTED = "submitted"
    QUEUED = "queued"
    HELD = "held"
    RUNNING = "running"
    DRAINING = "draining"
    DONE = "done"
    FAILED = "failed"
    REMOVED = "removed"
    LOST = "lost"


class StepState(StrEnum):
    OPEN = "open"
    RUNNING = "running"
    BLOCKED = "blocked"
    CLOSED = "closed"
    CANCELLED = "cancelled"


class CampaignState(StrEnum):
    ARRIVING = "arriving"
    RUNNING = "running"
    PAUSED = "paused"
    BLOCKED = "blocked"
    DONE = "done"
    CANCELLED = "cancelled"


S = TypeVar("S", bound=StrEnum)


def _table(rows: Mapping[S, str], kind: type[S]) -> Mapping[S, frozenset[S]]:
    return {state: frozenset(kind(word) for word in rows.get(state, "").split()) for state in kind}


JOB_TRANSITIONS = _table(
    {
        JobState.RECEIVED: "staging held waiting failed killed",
        JobState.HELD: "received failed killed",
        JobState.STAGING: "received failed killed",
        JobState.WAITING: "matched received failed killed",
        JobState.MATCHED: "running waiting received failed killed",
        JobState.RUNNING: "completing stalled received failed killed",
        JobState.STALLED: "running completing received failed killed",
        JobState.COMPLETING: "done received failed killed",
        JobState.FAILED: "received killed",
    },
    JobState,
)

PILOT_TRANSITIONS = _table(
    {
        PilotState.REQUESTED: "submitted running failed removed",
        PilotState.SUBMITTED: "queued held running done failed removed lost",
        PilotState.QUEUED: "submitted held running done failed removed lost",
        PilotState.HELD: "queued running done failed removed lost",
        PilotState.RUNNING: "draining done failed removed lost",
        PilotState.DRAINING: "done failed removed lost",
        PilotState.LOST: "running draining done failed removed",
    },
    PilotState,
)

STEP_TRANSITIONS = _table(
    {
        StepState.OPEN: "running cancelled",
        StepState.RUNNING: "blocked closed cancelled",
        StepState.BLOCKED: "running closed cancelled",
    },
    StepState,
)

CAMPAIGN_TRANSITIONS = _table(
    {
        CampaignState.ARRIVING: "running",
        CampaignState.RUNNING: "paused blocked done cancelled",
        CampaignState.PAUSED: "running done cancelled",
        CampaignState.BLOCKED: "running paused done cancelled",
        CampaignState.DONE: "running",
    },
    CampaignState,
)

JOB_FINAL = frozenset({JobState.DONE, JobState.FAILED, JobState.KILLED})
"""A job in one of these is over for automation (`failed` goes on by hand only)."""

JOB_OCCUPYING = frozenset({JobState.MATCHED, JobState.RUNNING, JobState.STALLED})
"""A job in one of these occupies its pilot's slot and its limits."""

JOB_ON_PILOT = JOB_OCCUPYING | {JobState.COMPLETING}
"""A job in one of these belongs to an attempt: a kill is a command to it, not a plain update."""

PILOT_PENDING = frozenset({PilotState.REQUESTED, PilotState.SUBMITTED, PilotState.QUEUED, PilotState.HELD})
PILOT_ACTIVE = frozenset({PilotState.RUNNING, PilotState.DRAINING})
PILOT_FINAL = frozenset({PilotState.DONE, PilotState.FAILED, PilotState.REMOVED})
PILOT_LIVE = tuple(state for state in PilotState if state not in PILOT_FINAL)
