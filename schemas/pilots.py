"""The pilot protocol, version 1: what pilots and the API say to each other.

A pilot enrols once with a batch-scoped secret and gets a token of its own. Then it offers its slots
(and may wait for jobs), confirms what it starts, heart-beats with all that it holds, reports ends.
Every call may be repeated: the answer is computed from the rows, not remembered.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from schemas.bounds import Bytes, Count, ExitCode, Number, RowId, Seconds
from schemas.campaign import Model
from schemas.names import Names
from schemas.wishes import Level

PROTOCOL = 1
Adler32 = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]


class AttemptRef(Model):
    """One attempt at one job: the fence that every word about it carries."""

    job_id: RowId
    attempt: Number


Measured = Annotated[str, Field(max_length=100)]
"""Whatever a node's own tools said; what makes no sense counts as not said."""


class NodeGpus(Model):
    """GPUs of one kind."""

    count: Number
    memory: Count = Field(default=0, description="of each, MiB; 0: not known")
    vendor: Measured = ""
    compute_capability: Measured = ""
    driver: Measured = ""


class NodeDetails(Model):
    """What jobs may ask for, in their words. Pilots of release 0.2.0 say nothing of it."""

    system_name: Measured = Field(default="", description="as `uname -s` says it")
    user_namespaces: bool | None = None
    machine: Measured = Field(default="", description="as `uname -m` says it")
    level: Level | None = Field(default=None, description="of x86-64, by the psABI")
    gpu: NodeGpus | None = None
    containers: Names = Field(
        default=(), description="container runtimes that it can run images with; release 0.3.0 can't, and says none"
    )


class Node(Model):
    """What the pilot measured of its node."""

    host: str
    cores: PositiveInt
    memory: PositiveInt = Field(description="MiB")
    disk: NonNegativeInt = Field(description="free scratch space, MiB")
    system: str = ""
    glibc: str = ""
    microarchitecture: str = ""
    gpus: NonNegativeInt = 0
    containers: Names = ()
    python: str = ""
    details: NodeDetails | None = None


class EnrolRequest(Model):
    """POST /v1/pilots/enrol, without a token."""

    protocol: PositiveInt
    secret: str
    tag: str = Field(description="the row id that the submission carried")
    version: str = Field(default="", description="the pilot's own version")
    node: Node


class EnrolReply(Model):
    pilot_id: PositiveInt
    token: str
    heartbeat_interval: NonNegativeFloat = Field(description="seconds")
    lifetime: NonNegativeFloat = Field(description="seconds until the pilot must have ended")
    idle_limit: NonNegativeFloat = Field(description="seconds without a job until the pilot ends itself")
    max_failures: PositiveInt = Field(description="jobs failed in a row by this node until the pilot ends itself")


class OfferRequest(Model):
    """POST /v1/pilots/self/offer: the totals, never what is free; the server computes that."""

    cores: Number
    memory: Number = Field(description="MiB")
    disk: Count = Field(description="MiB")
    gpus: Count = 0
    time_left: Seconds = Field(description="seconds until the pilot must end")
    jobs: tuple[AttemptRef, ...] = Field(
        default=(), description="every attempt that it knows and has not confirmed ended"
    )
    wait: Annotated[float, Field(ge=0, le=60)] = Field(default=0, description="seconds to wait for a job")


class InputFile(Model):
    lfn: str
    name: str = Field(description="file name in the working directory")
    size: NonNegativeInt
    adler32: Adler32
    urls: tuple[str, ...] = Field(description="replicas, the site's own first")


class OutputTarget(Model):
    name: str
    url: str = Field(description="where this attempt may write it")


class Assignment(AttemptRef):
    """One attempt to run, with all that it was granted. disk: MiB; wall_time: seconds."""

    command: tuple[str, ...]
    environment: dict[str, str]
    sandbox: str | None = Field(description="sha256 of a tar.gz at /v1/pilots/self/sandboxes/{sha256}")
    inputs: tuple[InputFile, ...]
    outputs: tuple[OutputTarget, ...]
    archive: tuple[str, ...] = Field(description="globs of small files to add to the archive")
    cores: PositiveInt
    memory: PositiveInt = Field(description="MiB above which the attempt is killed")
    disk: PositiveInt
    wall_time: PositiveInt
    gpus: NonNegativeInt = 0
    image: str | None = Field(default=None, description="container image to run the command in")
    stop_signal: str | None = Field(default=None, description="told before wall_time is over; none: SIGTERM")
    stop_grace: NonNegativeInt | None = Field(
        default=None, description="so many seconds before; 0: never; none: what the pilot finds right"
    )


class OfferReply(Model):
    assignments: tuple[Assignment, ...] = ()
    drain: bool = Field(default=False, description="take no more jobs, end when those at hand have ended")


class StartRequest(Model):
    """POST /v1/pilots/self/start: these attempts are about to run; a refused one must not."""

    jobs: Annotated[tuple[AttemptRef, ...], Field(min_length=1)]


class Refusal(AttemptRef):
    reason: str


class Verdict(Model):
    """Answer to start and report: a refused attempt is not the pilot's (any more): stop it, forget it."""

    accepted: tuple[AttemptRef, ...] = ()
    refused: tuple[Refusal, ...] = ()


class HeldJob(AttemptRef):
    """One attempt at hand, as the heartbeat lists it."""

    phase: Literal["assigned", "staging", "running", "uploading", "ended"]
    wall_time: Seconds = 0
    cpu_time: Seconds = 0
    memory: Count = Field(default=0, description="MiB resident, highest so far")
    tail: str = Field(default="", max_length=16_384, description="last lines of its output")


class HeartbeatRequest(Model):
    """POST /v1/pilots/self/heartbeat: every attempt that the pilot holds; what it leaves out twice is lost."""

    jobs: tuple[HeldJob, ...] = ()


class Stop(AttemptRef):
    """A command, derived from the rows and repeated until the pilot no longer lists the attempt."""

    why: Literal["kill", "superseded"]


class HeartbeatReply(Model):
    stop: tuple[Stop, ...] = ()
    drain: bool = False
    heartbeat_interval: NonNegativeFloat


class ReportedOutput(Model):
    name: str
    url: str
    size: Bytes
    adler32: Adler32


Minor = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
"""An open set: pilots of later releases may tell more apart. docs/how-to/when-jobs-fail.md lists them."""


class Report(AttemptRef):
    """The end of one attempt. cpu_time and wall_time in seconds, memory in MiB."""

    outcome: Literal["succeeded", "payload_failed", "infrastructure_failed", "killed"]
    exit_code: ExitCode | None = None
    reason: Annotated[str, Field(max_length=1000)] = ""
    minor: Minor | None = Field(default=None, description="the reason in one word, for programs to tell ends apart")
    wall_time: Seconds = 0
    cpu_time: Seconds = 0
    memory: Count = 0
    outputs: tuple[ReportedOutput, ...] = ()


class ReportRequest(Model):
    """POST /v1/pilots/self/report. The archive goes before it: PUT /v1/pilots/self/archives/{job_id}/{attempt}."""

    reports: Annotated[tuple[Report, ...], Field(min_length=1)]


class EndRequest(Model):
    """POST /v1/pilots/self/end: the last word of a pilot."""

    reason: str
