"""What happened to a job, in order and in words."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from schemas.campaign import Model
from schemas.states import JobState


class StoryLine(Model):
    """One thing that happened to a job."""

    at: datetime
    state: JobState = Field(description="that it was in from then on")
    seconds: float | None = Field(description="until the next line; null: of the last one")
    attempt: int
    text: str = Field(description="what happened, and why")
    pilot_id: int | None = None
    site: str | None = None
    site_queue: str | None = None
    node: str | None = Field(default=None, description="the host that the pilot runs on")
