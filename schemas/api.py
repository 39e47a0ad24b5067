"""What the HTTP API takes and answers. Times are UTC, durations seconds, memory MiB, sizes bytes."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from schemas.bounds import MAX_SECONDS, Cursor, Number, RowId
from schemas.campaign import Campaign, Model, Scalars, StepName
from schemas.requirements import Name
from schemas.states import CampaignState, JobState, StepState
from schemas.story import StoryLine

MAX_PAGE = 1_000
MAX_SELECTED = 10_000
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in hexadecimal")]
Next = Annotated[int | None, Field(description="`after` of the next page; null: there is none")]


class Role(StrEnum):
    """What a token may do; an operator may all that a user may, within its VO."""

    USER = "user"
    OPERATOR = "operator"
    PILOT = "pilot"
    MONITOR = "monitor"


class FieldProblem(Model):
    """One field that is wrong."""

    field: str
    reason: str


class Problem(Model):
    """Every error, as application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: tuple[FieldProblem, ...] = Field(default=(), description="the fields that are wrong, where it is known")


class SubmitRequest(Model):
    """POST /v1/campaigns. The sandboxes were uploaded before."""

    description: Campaign
    sandboxes: dict[StepName, Sha256] = Field(default={}, description="uploaded sandbox by step that sends files")


class SubmitReply(Model):
    """The stored campaign; a repeated request gets the same one."""

    campaign_id: RowId
    name: str
    jobs: PositiveInt
    warnings: tuple[str, ...] = Field(default=(), description="steps that no known site queue can run now")


class StepView(Model):
    """One version of a step; a retry after closing makes a new one."""

    name: str
    version: int
    state: StepState
    after: tuple[str, ...]
    min_success: float
    jobs: dict[JobState, int] = Field(description="jobs by state, states that occur")
    ended_at: datetime | None
    dataset: str | None = Field(description="the dataset of its registered outputs")
    files: int = Field(description="registered outputs")


class CampaignSummary(Model):
    """A campaign as lists show it."""

    id: RowId
    name: str
    state: CampaignState
    owner: str
    created_at: datetime
    ended_at: datetime | None


class CampaignView(CampaignSummary):
    """A campaign with its steps."""

    steps: tuple[StepView, ...]


class CampaignPage(Model):
    """Campaigns, the newest first."""

    items: tuple[CampaignSummary, ...]
    next: Next = None


class Page(Model):
    """Which page of a list is wanted."""

    after: Cursor = Field(default=0, description="`next` of the page before")
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="items per page")] = 100


class CampaignQuery(Page):
    """GET /v1/campaigns."""

    state: tuple[CampaignState, ...] = Field(default=(), description="may be given several times")
    name: str | None = None
    owner: str | None = Field(default=None, description="a subject")


class JobQuery(Page):
    """GET /v1/jobs."""

    campaign: RowId | None = None
    step: str | None = None
    state: tuple[JobState, ...] = Field(default=(), description="may be given several times")
    site: str | None = None
    id: Annotated[tuple[RowId, ...], Field(max_length=MAX_PAGE, description="may be given several times")] = ()


class FileQuery(Page):
    """GET /v1/files."""

    lfn: str | None = Field(default=None, description="what the logical name begins with")
    dataset: str | None = None


class AcceptRequest(Model):
    """POST /v1/campaigns/{id}/accept: close a blocked step as it is."""

    step: StepName


class Changed(Model):
    """What a command did."""

    changed: int = Field(default=0, description="jobs changed at once")
    requested: int = Field(default=0, description="jobs whose pilot must confirm it first")


class Commanded(Changed):
    """A campaign after a command."""

    campaign_id: RowId
    state: CampaignState


class JobSelection(Model):
    """POST /v1/jobs/kill, /v1/jobs/retry: jobs that meet every condition; one at least is wanted."""

    ids: Annotated[tuple[RowId, ...], Field(max_length=MAX_SELECTED)] = ()
    campaign_id: RowId | None = None
    step: StepName | None = None
    states: tuple[JobState, ...] = ()
    site: Name | None = None


class JobSummary(Model):
    """A job as lists show it."""

    id: RowId
    campaign_id: RowId
    step: str
    index: int = Field(description="place in the step's array, from 0")
    state: JobState
    attempt: int = Field(description="assignments so far")
    site: str | None
    exit_code: int | None
    reason: str | None
    changed_at: datetime


class JobPage(Model):
    """Jobs by id."""

    items: tuple[JobSummary, ...]
    next: Next = None


class EventView(Model):
    """One transition."""

    at: datetime
    attempt: int
    from_state: JobState | None
    to_state: JobState
    reason: str | None
    pilot_id: int | None


class AttemptView(Model):
    """What a pilot reported of an attempt that ended."""

    attempt: int
    outcome: str
    exit_code: int | None
    reason: str | None
    minor: str | None = Field(default=None, description="the reason in one word; none before release 0.4.0")
    wall_time: float
    cpu_time: float
    memory: int
    ended_at: datetime


class PeekView(Model):
    """The running attempt, as its pilot last told of it."""

    attempt: int
    at: datetime
    wall_time: float
    cpu_time: float
    memory: int
    tail: str


class ReplicaView(Model):
    """One copy of a file."""

    storage: str
    url: str
    state: Literal["new", "usable", "lost"]


class FileView(Model):
    """A file of the catalogue."""

    id: RowId
    lfn: str
    name: str
    size: int
    adler32: str
    dataset: str | None
    job_id: int | None
    created_at: datetime
    replicas: tuple[ReplicaView, ...]


class FilePage(Model):
    """Files by id."""

    items: tuple[FileView, ...]
    next: Next = None


class JobView(JobSummary):
    """A job with its history."""

    owner: str
    created_at: datetime
    priority: int
    kill_requested: bool
    pilot_id: int | None
    infrastructure_losses: int
    payload_failures: int
    command: tuple[str, ...] = Field(description="as this job runs it")
    parameters: Scalars
    events: tuple[EventView, ...]
    story: tuple[StoryLine, ...] = Field(default=(), description="the events in words, with places and waits")
    attempts: tuple[AttemptView, ...]
    peek: PeekView | None
    outputs: tuple[FileView, ...]
    trace_id: str | None = Field(default=None, description="of its trace, where it is traced: sent when the job ends")


class LogsQuery(Model):
    """GET /v1/jobs/{id}/logs."""

    attempt: Number | None = Field(default=None, description="which one, from 1")


class JobLogs(Model):
    """An attempt's output: from its archive when it has ended, else what its pilot last told."""

    job_id: RowId
    attempt: int
    pilot_id: int | None = Field(default=None, description="who ran it, as far as that is known")
    source: Literal["archive", "peek", "none"]
    stdout: str
    stderr: str


class JobOutputs(Model):
    """The registered outputs of a job."""

    items: tuple[FileView, ...]


class SandboxView(Model):
    """A stored sandbox."""

    sha256: Sha256
    size: int


class TokenRequest(Model):
    """POST /v1/tokens: a token in the caller's VO, for a new or known person. `expires_in`: seconds."""

    role: Literal["user", "operator", "monitor"] = "user"
    subject: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="whose it is")
    issuer: Annotated[str, Field(min_length=1, max_length=200)] = "penstock"
    group: Name = Field(default="default", description="share group of a person who is not known yet")
    name: Annotated[str, Field(max_length=63)] = Field(default="", description="what it is for")
    expires_in: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = Field(
        default=None, description="seconds; null: never"
    )


class TokenView(Model):
    """A token without its secret."""

    id: RowId
    name: str
    role: Role
    issuer: str
    subject: str
    group: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class TokenReply(TokenView):
    """A new token; `token` is shown this once."""

    token: str


class TokenPage(Model):
    """Tokens by id."""

    items: tuple[TokenView, ...]
    next: Next = None


class WhoAmI(Model):
    """The caller, as the API knows it."""

    subject: str
    vo: str
    group: str | None
    role: Role


class InstanceView(Model):
    """A process of the system."""

    id: str
    kind: str
    queues: tuple[str, ...]
    version: str
    host: str
    pid: int
    state: str
    wish: str | None
    in_flight: int
    oldest_age: float | None
    started_at: datetime
    last_seen: datetime
    silence: float = Field(description="seconds since it was last seen")
    health_url: str | None


class InstanceList(Model):
    """Every process that registered and was not removed."""

    items: tuple[InstanceView, ...]
    warnings: tuple[str, ...] = Field(default=(), description="differing versions, say")


class QueueView(Model):
    """How full a queue is; null where neither the broker nor a consumer can tell."""

    queue: str
    ready: int | None = Field(description="messages that wait")
    in_flight: int | None = Field(description="messages with consumers")
    oldest_age: float | None = Field(description="seconds since the oldest waiting message was published; null: none")
    consumers: int = Field(description="live processes that serve it")
    wish: str | None = Field(description="pause or drain, if somebody wished it")
    wanted: int | None = Field(
        default=None, description="consumers wanted, by what arrives, what it costs and what waits; null: not measured"
    )
    arrivals_per_second: float | None = Field(default=None, description="messages, averaged over two minutes or more")
    seconds_per_message: float | None = Field(default=None, description="of a worker slot, likewise")


class QueueList(Model):
    """Every queue that has a consumer declared."""

    items: tuple[QueueView, ...]


class Health(Model):
    """Whether the process turns, or can serve; and what is away that it can do without for a while."""

    status: Literal["ok"] = "ok"
    complaints: tuple[str, ...] = ()


JsonSchema = dict[str, Any]
