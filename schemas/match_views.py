"""What the API says of the jobs that a node would get now."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.bounds import RowId
from schemas.campaign import Model
from schemas.requirements import Resource

MOST_JOBS = 1_000
"""Jobs that a preview looks for at the most."""


class MatchRequest(Model):
    """POST /v1/match: what would a node that has nothing to do get now? Nothing is assigned."""

    resource: Resource
    jobs: Annotated[int, Field(ge=1, le=MOST_JOBS, description="so many at the most")] = 100


class MatchedView(Model):
    """Jobs of one kind that the node would get one after the other."""

    campaign_id: RowId
    step: str
    group: str
    owner: str
    job_type: str
    priority: int
    jobs: int
    first_job: RowId
    cores: int = Field(description="granted to each of them; likewise memory (MiB), gpus and seconds")
    memory: int
    gpus: int
    seconds: float = Field(description="how long each may occupy them")
    alternative: int | None = Field(description="which of the requirement's alternatives, from 0; null: it has none")


class PassedView(Model):
    """Waiting jobs that the node suits, but that it would not get, or not all of which it would get."""

    group: str
    owner: str
    job_type: str
    priority: int
    first_job: RowId
    reason: str


class UnfitView(Model):
    """One reason for which kinds of waiting jobs don't suit the node."""

    reason: str
    kinds: int = Field(description="kinds of waiting jobs: by requirement, owner and type")
    first_job: RowId = Field(description="one of those jobs")


class MatchView(Model):
    """The answer: jobs in the order in which they would be given, what was passed over, what does not suit."""

    site: str
    jobs: int
    cores: int = Field(description="of the node that they would take")
    matched: tuple[MatchedView, ...]
    passed: tuple[PassedView, ...]
    unfit: tuple[UnfitView, ...]
    warnings: tuple[str, ...] = ()
