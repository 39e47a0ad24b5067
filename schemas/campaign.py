"""The job file: a campaign of steps, each a template that parameters turn into jobs."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from schemas.bounds import MAX_SECONDS, NoTruth
from schemas.requirements import Name, Requirement
from schemas.silence import without_silent

MAX_JOBS_PER_STEP = 1_000_000
Value = str | int | float
Scalars = dict[str, Value]
StepName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
HIGHEST_PRIORITY = 1_000
"""Of those that people may give; a boosted job has a higher one."""
Priority = Annotated[int, Field(ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY)]

_NEWER_THAN_0_3_0 = frozenset({"image", "stop"})
_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|[{}]")
BUILT_IN = frozenset({"campaign", "step", "index"})
"""Parameters that every template may use: the campaign's name, the step's name, the job's index in its step."""


def placeholders(template: str) -> frozenset[str]:
    """The parameters that `template` uses. Raises ValueError on a stray brace; `{{` and `}}` stand for one."""
    names = set()
    for match in _PLACE.finditer(template):
        if match.group(1):
            names.add(match.group(1))
        elif match.group() in "{}":
            raise ValueError(f"stray {match.group()!r} in {template!r}; write it twice to mean itself")
    return frozenset(names)


def render(template: str, values: Mapping[str, Value]) -> str:
    """`template` with each `{name}` replaced by its value."""
    return _PLACE.sub(lambda m: str(values[m.group(1)]) if m.group(1) else m.group()[0], template)


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


RangeBound = Annotated[int, Field(ge=-(10**18), le=10**18)]


class Range(Model):
    """The integers `start`, `start + step`, ... below `stop`."""

    range: tuple[RangeBound, RangeBound] | tuple[RangeBound, RangeBound, RangeBound] = Field(
        description="start, stop and perhaps step, as in Python"
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if len(self.range) == 3 and self.range[2] == 0:
            raise ValueError("a range's step must not be 0")
        if not self.values():
            raise ValueError(f"the range {list(self.range)} is empty")
        return self

    def values(self) -> Sequence[int]:
        return builtins.range(*self.range)


class Axes(Model):
    """An array of jobs: the product of its axes, the last axis running fastest."""

    axes: dict[str, Range | Annotated[tuple[Value, ...], Field(min_length=1)]]

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        if self._size() > MAX_JOBS_PER_STEP:
            raise ValueError(f"the axes make {self._size()} jobs; at most {MAX_JOBS_PER_STEP} are allowed in a step")
        return self

    def __len__(self) -> int:
        return self._size()

    def _size(self) -> int:
        # not len(), which can't be larger than an index of the machine's
        return prod(len(axis.values() if isinstance(axis, Range) else axis) for axis in self.axes.values())

    def __getitem__(self, index: int) -> Scalars:
        chosen: Scalars = {}
        for name, axis in reversed(self.axes.items()):
            values: Sequence[Value] = axis.values() if isinstance(axis, Range) else axis
            index, at = divmod(index, len(values))
            chosen[name] = values[at]
        return dict(reversed(chosen.items()))


class Retries(Model):
    """Two budgets: losses that the infrastructure caused, and failures of the payload itself."""

    infrastructure: NonNegativeInt = Field(default=3, description="pilot gone, node bad, storage down")
    payload: NonNegativeInt = Field(default=1, description="the command ended with another code than 0")


class StepInput(Model):
    """All registered outputs of an earlier step, or those whose file name is `name`."""

    step: StepName = Field(description="a step that this one comes after")
    name: str | None = Field(default=None, description="only files of this name")


LogicalName = Annotated[
    str, Field(pattern=r"^/[^\x00]*[^/\x00]$", description="logical file name, may hold {parameters}")
]
IMAGE = r"^(/[^\x00-\x1f\x7f]*[^\x00-\x20\x7f/]|docker://[A-Za-z0-9][^\x00-\x20\x7f]*|(oci|docker)-archive:/[^\x00-\x1f\x7f]+)$"
Image = Annotated[str, Field(pattern=IMAGE, max_length=1000)]
_RUNTIMES = ("apptainer", "podman", "singularity")
"""Of these one must be on a node that runs images."""
_OF_SIF = ("apptainer", "singularity")
"""The same where the image is a .sif file."""
FileName = Annotated[str, Field(pattern=r"^[^/\x00]+$", description="a file in the job's working directory")]


class Stop(Model):
    """How a job that nears its wall time is told: it may save what it has, and end by itself."""

    signal: Literal["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU"] = Field(
        default="SIGTERM", description="what its processes are sent"
    )
    grace: Annotated[int, Field(ge=0, le=MAX_SECONDS), NoTruth] | None = Field(
        default=None,
        description="so many seconds before its wall time is over; 0: it is not told; none: 60, or 5 % if that is less",
    )


class Step(Model):
    """One template and the jobs that its parameters make of it."""

    name: StepName = Field(description="unique in the campaign; others name it under `after`")
    command: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="program and arguments, no shell")
    parameters: tuple[Scalars, ...] | Axes | None = Field(
        default=None, description="a list of mappings, one job each; or axes, one job per combination; none: one job"
    )
    environment: dict[str, str] = Field(default={}, description="variables set for the command, may hold {parameters}")
    sandbox: tuple[str, ...] = Field(default=(), description="local files sent along, relative to the job file")
    inputs: tuple[LogicalName | StepInput, ...] = Field(default=(), description="catalogue files that a job reads")
    outputs: tuple[FileName, ...] = Field(default=(), description="files that a job must leave; checked, registered")
    archive: tuple[str, ...] = Field(default=(), description="globs of small files kept with the job's log")
    storage: Name | None = Field(default=None, description="where outputs go; none: the running site's first storage")
    verify: Literal["all", "sample", "trust"] = Field(default="all", description="which outputs are compared")
    image: Image | None = Field(
        default=None,
        description="container image to run the command in: a folder or .sif file that nodes see, such as /cvmfs/...; "
        "docker://...; or oci-archive:/... ; none: the node's own system",
    )
    stop: Stop = Field(default=Stop(), description="what tells a job that its wall time is almost over")
    requirements: Requirement = Field(
        default=Requirement(), validate_default=True, description="what each job needs of a slot"
    )
    priority: Priority = Field(default=0, description="among the jobs of one owner; the highest goes first")
    retries: Retries = Field(default=Retries(), description="how often a job is tried again by itself")
    after: tuple[StepName, ...] = Field(default=(), description="steps that must have closed before this one")
    min_success: Annotated[float, Field(ge=0, le=1)] = Field(default=1.0, description="share of jobs that must be done")
    job_type: Name = Field(default="user", description="kind of work, such as `simulation`; shares and limits see it")

    @field_validator("parameters")
    @classmethod
    def _neither_empty_nor_uneven(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            if not value:
                raise ValueError("a list of parameters must not be empty")
            names = set(value[0])
            for index, row in enumerate(value):
                if set(row) != names:
                    raise ValueError(f"entry {index} names {sorted(row)}, entry 0 names {sorted(names)}")
        return value

    @field_validator("requirements")
    @classmethod
    def _image_needs_a_runtime(cls, wanted: Requirement, info: ValidationInfo) -> Requirement:
        image = info.data.get("image")
        if image is None:
            return wanted
        return wanted.in_a_container(_OF_SIF if image.endswith(".sif") else _RUNTIMES)

    @model_validator(mode="after")
    def _grace_is_within_the_wall_time(self) -> Self:
        shortest = min(one.wall_time for one in self.requirements.specifications())
        if self.stop.grace is not None and self.stop.grace >= shortest:
            raise ValueError(f"step {self.name}: stop.grace {self.stop.grace} leaves nothing of wall_time {shortest}")
        return self

    @model_serializer(mode="wrap")
    def _plainly(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Newer words that say nothing are left out, so that release 0.3.0 can read what it could have written."""
        return without_silent(self, handler(self), _NEWER_THAN_0_3_0)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if self.size() > MAX_JOBS_PER_STEP:
            raise ValueError(f"step {self.name} makes {self.size()} jobs; at most {MAX_JOBS_PER_STEP} are allowed")
        known = set(self.values(0))
        if isinstance(self.parameters, Axes) and BUILT_IN & set(self.parameters.axes):
            raise ValueError(f"step {self.name}: {', '.join(sorted(BUILT_IN))} are given, do not name an axis so")
        for template in self.templates():
            if "\0" in template:
                raise ValueError(f"step {self.name}: a NUL character in {template!r}; no program could get it")
            unknown = placeholders(template) - known
            if unknown:
                raise ValueError(f"step {self.name}: unknown parameter {{{min(unknown)}}} in {template!r}")
        for step in {entry.step for entry in self.inputs if isinstance(entry, StepInput)} - set(self.after):
            raise ValueError(f"step {self.name} reads the outputs of {step}; name it under `after` too")
        return self

    def templates(self) -> Iterator[str]:
        """Every string that may hold parameters."""
        yield from self.command
        yield from self.environment.values()
        yield from (entry for entry in self.inputs if isinstance(entry, str))
        yield from self.outputs
        yield from self.archive

    def size(self) -> int:
        """How many jobs it makes."""
        return 1 if self.parameters is None else len(self.parameters)

    def values(self, index: int, campaign: str = "") -> Scalars:
        """The parameters of job `index`, the built-in ones among them."""
        own = {} if self.parameters is None else self.parameters[index]
        return {"campaign": campaign, "step": self.name, "index": index, **own}


class Campaign(Model):
    """What `penstock submit` takes."""

    campaign: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = Field(
        description="its name; need not be unique"
    )
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=1000)] = Field(
        description="in any order; `after` says which waits for which"
    )

    @model_validator(mode="after")
    def _steps_make_an_order(self) -> Self:
        names = [step.name for step in self.steps]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two steps are named {name}")
        for step in self.steps:
            for other in step.after:
                if other not in names:
                    raise ValueError(f"step {step.name} comes after {other}, which is no step of this campaign")
        waiting = {step.name: set(step.after) for step in self.steps}
        while free := [name for name, after in waiting.items() if not after]:
            for name in free:
                del waiting[name]
            for after in waiting.values():
                after.difference_update(free)
        if waiting:
            raise ValueError(f"`after` goes in a circle: {_circle(waiting)}")
        return self


def _circle(waiting: Mapping[str, set[str]]) -> str:
    path = [min(waiting)]
    while path[-1] not in path[:-1]:
        path.append(min(waiting[path[-1]] & set(waiting)))
    return " -> ".join(islice(path, path.index(path[-1]), None))
