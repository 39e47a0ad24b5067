"""The sites file: sites, their storages and site queues, applied as a whole."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from schemas.bounds import MAX_SECONDS, Count, NoTruth, Number
from schemas.campaign import Model
from schemas.names import Name, Names
from schemas.resources import Architecture, Gpus, Rates, System
from schemas.wishes import Power


class StorageEntry(Model):
    """A storage: `kind` names an entry point of `penstock.storages`, `url` its root."""

    name: Name = Field(description="unique; sites and steps name it")
    kind: Name = Field(default="file", description="an entry point of penstock.storages")
    url: str = Field(description="root URL; ${DATA_DIR} stands for the data directory of the applying process")


class SiteQueueEntry(Model):
    """A queue of a site's batch system and what a pilot there has. memory, disk: MiB; wall_time: seconds."""

    name: Name = Field(description="unique in its site")
    batch_system: Name = Field(default="local", description="an entry point of penstock.batch_systems")
    options: dict[str, Any] = Field(default={}, description="what that batch system wants to know")
    vos: Annotated[Names, Field(min_length=1)] = Field(default=("default",), description="whose jobs may run there")
    cores: Number = Field(default=1, description="cores of one pilot; its jobs share them")
    memory: Number = Field(default=2048, description="of one pilot, MiB")
    disk: Number = Field(default=10240, description="scratch space of one pilot, MiB")
    wall_time: Annotated[int, Field(ge=1, le=MAX_SECONDS), NoTruth] = Field(
        default=86_400, description="the batch system's limit, seconds; pilots live a margin less"
    )
    tags: Names = Field(default=(), description="what else jobs may ask for, such as `cvmfs:lhcb`")
    max_pilots: Count = Field(default=1, description="pilots in any live state")
    max_pending_pilots: Count = Field(default=1, description="pilots that do not run yet")
    gpu: Gpus | None = Field(default=None, description="GPUs of one pilot; none: it has none")
    system: System = Field(default=System(), description="operating system: name, glibc, user_namespaces")
    architecture: Architecture = Field(default=Architecture(), description="processor: name, level")
    power: Power | None = Field(default=None, description="of one core, HS23; jobs that give their cpu_work need it")
    io: Rates = Field(default=Rates(), description="rates of a node in MB/s: scratch, lan")

    def lifetime(self, margin: float) -> float:
        """Seconds that a pilot may live: `margin` less than the wall time, but half of the wall time at the least."""
        return max(self.wall_time - margin, self.wall_time / 2)


class StartRateEntry(Model):
    """At most `jobs` start in any `seconds`."""

    jobs: Number = Field(description="that may start")
    seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False), NoTruth] = Field(
        description="within this time"
    )


class SiteEntry(Model):
    """A site; its first storage takes the outputs of jobs that name none."""

    name: Name = Field(description="unique")
    storages: Annotated[Names, Field(min_length=1)] = Field(
        description="the first takes the outputs of steps that name none"
    )
    max_running_jobs: Number | None = Field(default=None, description="exact limit over all of its queues")
    max_starts: StartRateEntry | None = Field(
        default=None, description="{jobs, seconds}: so many jobs may start in so many seconds; none: any"
    )
    queues: Annotated[tuple[SiteQueueEntry, ...], Field(min_length=1)] = Field(description="of its batch systems")


VoShare = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), NoTruth]


class SitesFile(Model):
    """What `penstock sites apply` takes: the whole truth about sites and storages."""

    storages: tuple[StorageEntry, ...] = Field(description="every storage that sites and steps name")
    sites: tuple[SiteEntry, ...] = Field(description="every site; one that is left out gets nothing new")
    vo_shares: dict[Name, VoShare] = Field(
        default={}, description="how VOs split the pilots of a queue that several want; 1 for one that is left out"
    )

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        storages = [storage.name for storage in self.storages]
        _unique(storages, "storages")
        _unique([site.name for site in self.sites], "sites")
        for site in self.sites:
            _unique([queue.name for queue in site.queues], f"queues of site {site.name}")
            for name in site.storages:
                if name not in storages:
                    raise ValueError(f"site {site.name} names the storage {name}, which is not declared")
        return self


def _unique(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what} are named {name}")
