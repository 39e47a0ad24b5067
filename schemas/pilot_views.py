"""What the API says of pilots, and the commands on them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from schemas.api import MAX_SELECTED, Next, Page
from schemas.bounds import RowId
from schemas.campaign import Model
from schemas.names import Name
from schemas.states import JobState, PilotState

Why = Annotated[str, Field(min_length=1, max_length=300)]


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
    removing: bool = Field(default=False, description="whether its batch system is to remove it")
    releases: int = Field(default=0, description="times that it was held and let go on")
    requested_at: datetime
    started_at: datetime | None
    last_seen: datetime | None
    ends_at: datetime | None
    ended_at: datetime | None
    reason: str | None = Field(description="why it is held, drains or has ended")


class PilotPage(Model):
    """Pilots, the newest first."""

    items: tuple[PilotView, ...]
    next: Next = None


class JobAtHand(Model):
    """A job that a pilot has not been heard to end."""

    id: RowId
    campaign_id: RowId
    step: str
    state: JobState
    attempt: int
    cores: int | None = Field(description="that it was granted; null: by a release before 0.3.0")
    since: datetime = Field(description="when it came into its state")


class PilotDetail(PilotView):
    """All that is known of a pilot."""

    tag: str = Field(description="its name in the batch system and on its node")
    batch_system: str
    version: str | None = Field(description="of the pilot program; null: it has not enrolled")
    node: dict[str, Any] | None = Field(description="what it found its node to be like; null: it has not enrolled")
    submitted_at: datetime | None
    held_at: datetime | None = Field(description="since when it is held")
    proxy_ends_at: datetime | None = Field(description="the end of the proxy that was delegated to it, if any was")
    idle_cycles: int = Field(description="cycles of provisioning, one after the other, that found it without a job")
    output_wanted_at: datetime | None = Field(description="since when its output is to be fetched")
    output_at: datetime | None = Field(description="when its output was fetched last")
    jobs_at_hand: tuple[JobAtHand, ...]
    because: tuple[str, ...] = Field(description="why it is as it is, the weightiest first")


class PilotLog(Model):
    """The ends of a pilot's standard output and error, as its batch system gave them."""

    pilot_id: RowId
    fetched_at: datetime
    wanted_at: datetime | None = Field(description="since when a fresher one is wanted; null: nobody waits for one")
    stdout: str
    stderr: str


class LogWanted(Model):
    """POST /v1/pilots/{id}/log: its output is fetched at the next round of its site queue."""

    pilot_id: RowId
    wanted_at: datetime
    output_at: datetime | None = Field(description="when the stored one was fetched; null: there is none")


class PilotOrder(Model):
    """POST /v1/pilots/submit: new pilots of the caller's VO."""

    site: Name
    queue: Name
    count: Annotated[int, Field(ge=1, le=MAX_SELECTED)]


class PilotsOrdered(Model):
    """The pilots that were requested; a repeated request gets the same ones."""

    pilot_ids: tuple[RowId, ...]
    warnings: tuple[str, ...] = Field(default=(), description="why they may take a while")


class PilotSelection(Model):
    """POST /v1/pilots/drain: live pilots that meet every condition; one at least is wanted."""

    ids: Annotated[tuple[RowId, ...], Field(max_length=MAX_SELECTED)] = ()
    site: Name | None = None
    queue: Name | None = None
    states: tuple[PilotState, ...] = ()
    why: Why | None = Field(default=None, description="for those who look at them later")
    dry_run: bool = Field(default=False, description="only tell how many")

    @property
    def is_empty(self) -> bool:
        """Whether it names no condition."""
        return not (self.ids or self.site or self.queue or self.states)


class PilotKill(PilotSelection):
    """POST /v1/pilots/kill: the same."""

    now: bool = Field(default=False, description="end active ones at once; the jobs that they have start again")


class PilotsChanged(Model):
    """What a command did, or would do."""

    removed: int = Field(default=0, description="had not begun to run: their batch systems remove them")
    drained: int = Field(default=0, description="take no more jobs, and end after those that they have")
    ended: int = Field(default=0, description="are ended at once, with the jobs that they have")
    dry_run: bool = False
