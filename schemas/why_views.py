"""What the API says of why a job is where it is: its state, its turn, and every site queue of its VO."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from schemas.bounds import RowId
from schemas.campaign import Model
from schemas.requirements import Requirement
from schemas.share_views import LimitView
from schemas.states import JobState, PilotState

MOST_COUNTED = 1_000
"""Jobs ahead are counted so far and no further."""


class Turn(Model):
    """A waiting job's place in the fair share of its VO, among those who have waiting jobs; 1 is next."""

    group: str
    group_place: int
    groups: int
    owner: str
    owner_place: int = Field(description="within the group")
    owners: int
    higher: int = Field(description=f"waiting jobs of the owner with a higher priority; {MOST_COUNTED}: or more")
    older: int = Field(description=f"waiting jobs of its own kind and priority that are older; {MOST_COUNTED}: or more")


class QueueWhy(Model):
    """What one site queue has to say to the job."""

    site: str
    queue: str
    fits: bool = Field(description="whether a fresh pilot there could run it, bans and limits aside")
    missing: tuple[str, ...] = Field(description="every reason why not")
    banned: str | None = Field(description="by whom and why")
    test_mode: str | None = Field(description="the one type of jobs that may run there now, where it is another one")
    backoff_until: datetime | None = Field(description="its batch system failed; no new pilots until then")
    backoff_reason: str | None
    full: tuple[str, ...] = Field(description="limits without room that the job would count against there")
    max_pilots: int
    pilots: dict[PilotState, int] = Field(description="the VO's pilots there by state, those that have not ended")
    free_cores: int = Field(description="of pilots there that wait for jobs")
    room_for: int = Field(description="such jobs that these pilots could start now")


class JobWhy(Model):
    """GET /v1/jobs/{id}/why."""

    job_id: RowId
    campaign_id: RowId
    step: str
    state: JobState
    changed_at: datetime
    owner: str
    group: str
    job_type: str
    priority: int
    requirement: Requirement = Field(description="what it wants of a node; what is left out is as it is by default")
    because: tuple[str, ...] = Field(description="why it is in its state, the weightiest reason first")
    turn: Turn | None = Field(description="of a waiting job")
    full: tuple[LimitView, ...] = Field(description="limits without room that concern it, wherever it ran")
    queues: tuple[QueueWhy, ...]
