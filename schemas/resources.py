"""What a slot, a node or a site queue's fresh pilot has, in the words that requirements use."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from schemas.bounds import MAX_SECONDS, Count, NoTruth, Number
from schemas.names import Machine, Name, Names, Word
from schemas.rooms import Room
from schemas.versions import Version
from schemas.wishes import Level, Part, Power, Rate, level_alone


class System(Part):
    """The operating system; what is not said is not known, and satisfies no wish."""

    name: Word | None = Field(default=None, description="as `uname -s` says it, such as `linux`")
    glibc: Version | None = Field(default=None, description="version of the C library, such as `'2.34'`")
    user_namespaces: bool | None = Field(default=None, description="whether unprivileged user namespaces work")


class Architecture(Part):
    """The processor. A level alone is one of x86_64."""

    name: Machine | None = Field(default=None, description="as `uname -m` says it, such as `x86_64` or `aarch64`")
    level: Level | None = Field(default=None, description="of x86-64: 1 to 4, as the psABI defines them")

    @model_validator(mode="before")
    @classmethod
    def _level_alone(cls, said: Any) -> Any:
        return level_alone(said)


class Gpus(Part):
    """GPUs of one kind."""

    count: Number = Field(default=1, description="how many")
    memory: Number | None = Field(default=None, description="of each, MiB")
    vendor: Word | None = Field(default=None, description="such as `nvidia`")
    compute_capability: Version | None = Field(default=None, description="such as `'8.0'`")
    driver: Version | None = Field(default=None, description="version of the driver, such as `'535.104.05'`")


class Rates(Part):
    """What the node can read and write."""

    scratch: Rate | None = Field(default=None, description="of its scratch space, MB/s")
    lan: Rate | None = Field(default=None, description="over the local network, MB/s")


class Resource(Part):
    """A node (or what a pilot has of it): totals, nature, and the seconds left. memory, disk: MiB."""

    site: Name = Field(description="where it is")
    cores: Number = Field(description="processor cores")
    memory: Number = Field(description="MiB")
    disk: Count = Field(description="scratch space, MiB")
    wall_time: Annotated[int, Field(ge=0, le=MAX_SECONDS), NoTruth] = Field(description="time left, seconds")
    gpu: Gpus | None = Field(default=None, description="its GPUs; none: it has none")
    system: System = Field(default=System(), description="operating system")
    power: Power | None = Field(default=None, description="of one core, HS23")
    architecture: Architecture = Field(default=Architecture(), description="processor")
    io: Rates = Field(default=Rates(), description="rates")
    tags: Annotated[Names, Field(max_length=10_000)] = Field(default=(), description="what else there is")
    containers: Names = Field(default=(), description="container runtimes that work there")

    @cached_property
    def tag_set(self) -> frozenset[str]:
        """Its tags, to look them up."""
        return frozenset(self.tags)

    @property
    def gpus(self) -> int:
        """How many GPUs it has."""
        return 0 if self.gpu is None else self.gpu.count

    def with_room(self, room: Room) -> Self:
        """The same with so much memory and disk; cores and GPUs stay."""
        return self.model_copy(update={"memory": max(room.memory, 1), "disk": max(room.disk, 0)})

    def signature(self) -> str:
        """A hash of all but the time left: kinds of nodes that it does not tell apart may run the same jobs."""
        same = {"tags": tuple(sorted(set(self.tags))), "containers": tuple(sorted(set(self.containers)))}
        plain = self.model_copy(update={"wall_time": 0, **same})
        return hashlib.sha256(plain.model_dump_json(exclude_defaults=True).encode()).hexdigest()
