"""The parts of a requirement that are more than a number: ranges, memory, system, architecture, GPUs, rates."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from schemas import tags
from schemas.bounds import MAX_COUNT, Count, NoTruth, Number
from schemas.names import Machine, Name, Word
from schemas.versions import Version, numbers

Level = Annotated[int, Field(ge=1, le=99), NoTruth]
Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False), NoTruth]
Power = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), NoTruth]
Work = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False), NoTruth]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Between(Part):
    """At least `min`, and as many as are free, to `max`."""

    min: Number | None = Field(default=None, description="at least so many; none: one")
    max: Number | None = Field(default=None, description="at most so many; none: as many as there are")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


NumberOrRange = Annotated[
    Annotated[Number, Tag("(number)")] | Annotated[Between, Tag("(mapping)")],
    Discriminator(lambda said: "(mapping)" if isinstance(said, dict | Between) else "(number)"),
]
"""Discriminated, so that an error speaks of the way of writing that was meant; in parentheses, as no field is."""


def _as_range(said: Any, such_as: str) -> Any:
    is_one = isinstance(said, str | int | float)
    if is_one:
        raise ValueError(f"say min, max or both of it, such as {{min: {such_as}}}")
    return said


class LevelRange(Part):
    """A microarchitecture level from `min` to `max`, one of them or both."""

    min: Level | None = Field(default=None, description="at least; 3 is x86-64-v3")
    max: Level | None = Field(default=None, description="at most")

    @model_validator(mode="before")
    @classmethod
    def _written_as_one(cls, said: Any) -> Any:
        return _as_range(said, "3")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class VersionRange(Part):
    """A version from `min` to `max`, one of them or both."""

    min: Version | None = Field(default=None, description="at least")
    max: Version | None = Field(default=None, description="at most")

    @model_validator(mode="before")
    @classmethod
    def _written_as_one(cls, said: Any) -> Any:
        return _as_range(said, "'7.5'")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and numbers(self.min) > numbers(self.max):
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class MemoryLimit(Part):
    """Above what an attempt is killed, MiB; what is left out is as requested."""

    overhead: Count | None = Field(default=None, description="MiB, however many cores")
    per_core: Count | None = Field(default=None, description="MiB for each core granted")


class Memory(Part):
    """Memory that grows with the cores granted, MiB. `limit` is where the attempt is killed; none: at the request."""

    overhead: Count = Field(default=0, description="MiB, however many cores")
    per_core: Count = Field(default=0, description="MiB for each core granted")
    limit: MemoryLimit | None = Field(default=None, description="where the attempt is killed; none: at the request")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.overhead + self.per_core < 1:
            raise ValueError("give overhead, per_core or both")
        for word in ("overhead", "per_core"):
            request, limit = getattr(self, word), getattr(self.limit, word, None)
            if limit is not None and limit < request:
                raise ValueError(f"the limit's {word} {limit} is less than the {request} requested")
        return self


class SystemWish(Part):
    """What the operating system must be like."""

    name: Word | None = Field(default=None, description="as `uname -s` says it, such as `linux`")
    glibc: Version | None = Field(default=None, description="at least this version, such as `'2.28'`")
    user_namespaces: bool = Field(default=False, description="whether unprivileged user namespaces must work")


class ArchitectureWish(Part):
    """What the processor must be like. A level alone is one of x86_64."""

    name: Machine | None = Field(default=None, description="as `uname -m` says it, such as `x86_64` or `aarch64`")
    level: LevelRange | None = Field(default=None, description="of x86-64: 2 to 4, as the psABI defines them")

    @model_validator(mode="before")
    @classmethod
    def _level_alone(cls, said: Any) -> Any:
        return level_alone(said)


def level_alone(said: Any) -> Any:
    """The levels that people speak of are x86-64's."""
    if isinstance(said, dict) and said.get("level") is not None and said.get("name") is None:
        return {**said, "name": "x86_64"}
    return said


class GpuWish(Part):
    """GPUs, all of one kind."""

    count: NumberOrRange = Field(default=1, description="how many, or {min, max}: as many as are free")
    memory: Number | None = Field(default=None, description="of each, at least, MiB")
    vendor: Word | None = Field(default=None, description="such as `nvidia`")
    compute_capability: VersionRange | None = Field(default=None, description="{min, max}, such as `{min: '7.5'}`")
    driver: Version | None = Field(default=None, description="at least this version, such as `'535.104'`")


class RatesWish(Part):
    """What the node must be able to read and write."""

    scratch: Rate | None = Field(default=None, description="of its scratch space, at least, MB/s")
    lan: Rate | None = Field(default=None, description="over the local network, at least, MB/s")


def _expression(text: str) -> str:
    tags.parse(text)
    return text


MemoryWish = Annotated[
    Annotated[Number, Tag("(number)")] | Annotated[Memory, Tag("(mapping)")],
    Discriminator(lambda said: "(mapping)" if isinstance(said, dict | Memory) else "(number)"),
]
TagsWish = Annotated[
    Annotated[Annotated[tuple[Name, ...], Field(max_length=1000)], Tag("(list)")]
    | Annotated[str, AfterValidator(_expression), Tag("(expression)")],
    Discriminator(lambda said: "(expression)" if isinstance(said, str) else "(list)"),
]


def least_and_most(wish: int | Between) -> tuple[int, int]:
    """The bounds that a number or a range stands for."""
    if isinstance(wish, Between):
        return wish.min or 1, wish.max or MAX_COUNT
    return wish, wish
