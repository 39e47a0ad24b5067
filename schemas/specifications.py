"""What a job wants: one specification, or several of which any one will do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from schemas import tags
from schemas.bounds import Number
from schemas.names import Names
from schemas.rooms import Room
from schemas.silence import without_silent
from schemas.tags import TagExpression
from schemas.versions import numbers
from schemas.wishes import (
    ArchitectureWish,
    GpuWish,
    Memory,
    MemoryWish,
    NumberOrRange,
    Part,
    RatesWish,
    SystemWish,
    TagsWish,
    VersionRange,
    Work,
    least_and_most,
)

SiteNames = Annotated[Names, Field(max_length=10_000)]
MOST_ALTERNATIVES = 16
MOST_LABELS = 32
_WORDS_OF_0_2_0 = frozenset({"cores", "memory", "disk", "wall_time", "tags", "sites", "banned_sites"})


@dataclass(frozen=True, slots=True)
class Needs:
    """The numbers of a specification, ready to be compared a million times. memory, disk: MiB; times: seconds."""

    min_cores: int
    max_cores: int
    overhead: int
    per_core: int
    disk: int
    min_gpus: int
    max_gpus: int
    wall_time: int
    cpu_work: float | None

    def memory(self, cores: int) -> int:
        """MiB requested with so many cores."""
        return self.overhead + self.per_core * cores


class Specification(Part):
    """What a job needs of a slot. Whatever is left out is no restriction, but for the numbers' defaults."""

    cores: NumberOrRange = Field(default=1, description="processor cores, or {min, max}: as many as are free")
    memory: MemoryWish = Field(
        default=1024, description="resident memory, MiB, or {overhead, per_core, limit: {overhead, per_core}}"
    )
    disk: Number = Field(default=1024, description="scratch space, MiB")
    wall_time: Number = Field(default=3600, description="longest run time, seconds")
    cpu_work: Work | None = Field(
        default=None, description="work in HS23 seconds; divided by power and cores it must fit into wall_time"
    )
    tags: TagsWish = Field(
        default=(), description="tags that the node must carry, all of them; or an expression with & | ~ ( )"
    )
    sites: SiteNames = Field(default=(), description="sites that may run it; empty: any")
    banned_sites: SiteNames = Field(default=(), description="sites that may not run it")
    system: SystemWish = Field(default=SystemWish(), description="operating system: name, glibc, user_namespaces")
    architecture: ArchitectureWish = Field(default=ArchitectureWish(), description="processor: name, level {min, max}")
    gpu: GpuWish | None = Field(
        default=None, description="GPUs: count, memory, vendor, compute_capability {min, max}, driver; none: no GPU"
    )
    io: RatesWish = Field(default=RatesWish(), description="rates in MB/s, at least: scratch, lan")
    containers: Annotated[Names, Field(max_length=10)] = Field(
        default=(), description="container runtimes of which the node must have one; a step's image implies it"
    )

    @cached_property
    def needs(self) -> Needs:
        """Its numbers."""
        memory = self._memory()
        return Needs(
            *least_and_most(self.cores),
            memory.overhead,
            memory.per_core,
            self.disk,
            *((0, 0) if self.gpu is None else least_and_most(self.gpu.count)),
            self.wall_time,
            self.cpu_work,
        )

    @cached_property
    def tag_expression(self) -> TagExpression:
        """Its tags, ready to be evaluated."""
        return tags.parse(self.tags) if isinstance(self.tags, str) else tags.all_of(self.tags)

    @property
    def min_cores(self) -> int:
        """The fewest cores that it runs with."""
        return self.needs.min_cores

    @property
    def least(self) -> Room:
        """The least that it runs with."""
        needs = self.needs
        return Room(needs.min_cores, needs.memory(needs.min_cores), needs.disk, needs.min_gpus)

    def memory_for(self, cores: int) -> int:
        """MiB that are taken with so many cores."""
        return self.needs.memory(cores)

    def memory_limit_for(self, cores: int) -> int:
        """MiB above which an attempt with so many cores is killed."""
        memory = self._memory()
        limit = memory.limit
        overhead = memory.overhead if limit is None or limit.overhead is None else limit.overhead
        per_core = memory.per_core if limit is None or limit.per_core is None else limit.per_core
        return overhead + per_core * cores

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Pydantic's, without what was computed of the original."""
        copy = super().model_copy(update=update, deep=deep)
        for computed in set(copy.__dict__) - set(type(self).model_fields):
            del copy.__dict__[computed]
        return copy

    def meaning(self) -> dict[str, Any]:
        """All of it in one way of writing, every restriction by its name."""
        memory = self._memory()
        said = {
            "cores": least_and_most(self.cores),
            "memory": (memory.overhead, memory.per_core, self.memory_limit_for(0), self.memory_limit_for(1)),
            "disk": self.disk,
            "wall_time": self.wall_time,
            "cpu_work": self.cpu_work,
            "tags": self.tag_expression.canonical,
            "sites": sorted(set(self.sites)),
            "banned_sites": sorted(set(self.banned_sites)),
            "system": {**self.system.model_dump(), "glibc": _numbers(self.system.glibc)},
            "architecture": self.architecture.model_dump(),
            "gpu": None if self.gpu is None else _gpu_meaning(self.gpu),
            "io": self.io.model_dump(),
        }
        # newer than the rest: requirements without it keep the signature that release 0.3.0 gave them
        return {**said, "containers": sorted(set(self.containers))} if self.containers else said

    def _memory(self) -> Memory:
        return self.memory if isinstance(self.memory, Memory) else Memory(overhead=self.memory)

    @model_serializer(mode="wrap")
    def _plainly(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Newer words that say nothing are left out, so that release 0.2.0 can read what it could have written."""
        written: dict[str, Any] = handler(self)
        return without_silent(self, written, newer=written.keys() - _WORDS_OF_0_2_0)


def _numbers(version: str | None) -> tuple[int, ...] | None:
    return None if version is None else numbers(version)


def _gpu_meaning(gpu: GpuWish) -> dict[str, Any]:
    capability = gpu.compute_capability or VersionRange.model_construct()
    return {
        **gpu.model_dump(),
        "count": least_and_most(gpu.count),
        "compute_capability": (_numbers(capability.min), _numbers(capability.max)),
        "driver": _numbers(gpu.driver),
    }


class Alternative(Specification):
    """What is different in one alternative: only the fields that are written count, whatever their values."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("say what is different in it")
        return self

    @model_serializer(mode="wrap")
    def _plainly(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A value that is the default counts too, even where defaults are not to be written."""
        written: dict[str, Any] = handler(self)
        return {name: written.get(name, _DEFAULTS[name]) for name in _DEFAULTS if name in self.model_fields_set}


_DEFAULTS: dict[str, Any] = {
    name: {} if isinstance(field.default, Part) else field.default for name, field in Specification.model_fields.items()
}


class Requirement(Specification):
    """What a job wants. Each entry of `any_of` says what is different in it; any one of them suffices."""

    any_of: Annotated[tuple[Alternative, ...], Field(max_length=MOST_ALTERNATIVES)] = Field(
        default=(),
        description="alternatives, the preferred ones first; each says which of the fields above it has otherwise",
    )
    labels: Annotated[Names, Field(max_length=MOST_LABELS)] = Field(
        default=(), description="what the job uses up elsewhere, such as `licence:matlab`; limits see it"
    )

    @cached_property
    def _alternatives(self) -> tuple[Specification, ...]:
        base = {name: getattr(self, name) for name in Specification.model_fields}
        return tuple(
            Specification.model_construct(**{**base, **{name: getattr(entry, name) for name in entry.model_fields_set}})
            for entry in self.any_of
        ) or (Specification.model_construct(**base),)

    def specifications(self) -> tuple[Specification, ...]:
        """Each alternative in full; one alone when there is no choice."""
        return self._alternatives

    def in_a_container(self, runtimes: tuple[str, ...]) -> Self:
        """The same for jobs that run in an image which one of `runtimes` must run, whatever was wished before."""
        entries = tuple(
            entry.model_copy(update={"containers": runtimes}) if "containers" in entry.model_fields_set else entry
            for entry in self.any_of
        )
        return self.model_copy(update={"containers": runtimes, "any_of": entries})

    @cached_property
    def _signature(self) -> str:
        meaning = {
            "specifications": [specification.meaning() for specification in self.specifications()],
            "labels": sorted(set(self.labels)),
        }
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    def signature(self) -> str:
        """A hash of the meaning: equal requirements share it, in whatever order names were written.

        The order of `any_of` is part of the meaning: attempts remember which one they were granted by.
        """
        return self._signature

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requirement) and self.signature() == other.signature()

    def __hash__(self) -> int:
        return hash(self.signature())
