"""What the API says of the pilots that would be requested, removed and drained now."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from schemas.campaign import Model
from schemas.states import PilotState


class PlanQuery(Model):
    """GET /v1/provisioning/plan: of which site queues it is told; all of them are planned."""

    site: str | None = None
    queue: str | None = Field(default=None, description="a site queue's name")


class PlanRow(Model):
    """One site queue as the plan sees it for one VO."""

    site: str
    queue: str
    vo: str
    waiting_jobs: int = Field(description="jobs that wait and could run there, each counted wherever it could")
    waiting_cores: int = Field(description="cores that they want at the least")
    pilots: dict[PilotState, int] = Field(description="live pilots by state")
    idle: int = Field(description="of those that run, the ones without a job that take more")
    wanted: int = Field(description="pilots that there shall be, those that run jobs included")
    request: int = Field(description="new pilots that would be requested")
    remove: int = Field(description="pending pilots that would be removed")
    drain: int = Field(description="running pilots that would take no more jobs")
    low_cycles: int = Field(description="cycles in a row that found more pilots there than needed")
    hold_until: datetime | None = Field(description="until then a queue that starts nothing gets no further probe")
    backoff_until: datetime | None = Field(description="until then its batch system is left alone")
    why: str


class PlanView(Model):
    """What provisioning would do now. Nothing is requested, and nothing is kept."""

    items: tuple[PlanRow, ...] = Field(description="every declared site queue of the VO")
    is_sure: bool = Field(description="whether the demand is known to be all: nothing goes while it is not")
    waiting_jobs: int = Field(description="of the VO, wherever they could run")
    waiting_cores: int
    request: int = Field(description="over all site queues that are told of; likewise the next two")
    remove: int
    drain: int
