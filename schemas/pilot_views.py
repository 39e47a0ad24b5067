"""What the API says of pilots."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from schemas.api import Next, Page
from schemas.bounds import RowId
from schemas.campaign import Model
from schemas.states import PilotState


class PilotQuery(Page):
    """GET /v1/pilots."""

    state: tuple[PilotState, ...] = Field(default=(), description="may be given several times")
    site: str | None = None
    queue: str | None = Field(default=None, description="a site queue's name")


class PilotView(Model):
    """A pilot as lists show it."""

    id: RowId
    site: str
    queue: str
    state: PilotState
    batch_id: str | None = Field(description="what its batch system calls it")
    host: str | None = Field(default=None, description="the node that it has enrolled from")
    cores: int
    jobs: int = Field(description="jobs that occupy it now")
    failures_in_row: int = Field(default=0, description="jobs that its node has failed one after the other")
    draining: bool = Field(default=False, description="whether it is active and takes no more jobs")
    requested_at: datetime
    started_at: datetime | None
    last_seen: datetime | None
    ends_at: datetime | None
    ended_at: datetime | None
    reason: str | None = Field(description="why it drains or has ended")


class PilotPage(Model):
    """Pilots, the newest first."""

    items: tuple[PilotView, ...]
    next: Next = None
