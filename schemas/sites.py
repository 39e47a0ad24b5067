"""The sites file: sites, their storages and site queues, applied as a whole."""

from __future__ import annotations

from enum import StrEnum
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


class PilotCaps(Model):
    """Limits of pilots, nested: each pilot counts in those of its queue, site, meta-sites, VO and of everywhere."""

    max_pilots: Count | None = Field(default=None, description="pilots in any live state")
    max_pending_pilots: Count | None = Field(default=None, description="pilots that do not run yet")
    max_held_pilots: Count | None = Field(
        default=None, description="held pilots; from so many on nothing new is submitted"
    )
    max_submissions: Number | None = Field(default=None, description="new pilots in one cycle of provisioning")


class Removal(StrEnum):
    """Which surplus pilots go before they end by themselves; each word includes those before it."""

    NONE = "none"
    PENDING = "pending"
    IDLE = "idle"
    ALL = "all"


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
    max_held_pilots: Count = Field(default=10, description="held pilots; from so many on nothing new is submitted")
    max_submissions: Number = Field(default=100, description="new pilots in one cycle of provisioning")
    nodes: Number = Field(
        default=1,
        description="nodes of one batch job; a pilot runs on each, with the cores and memory that are said here",
    )
    removal: Removal = Field(
        default=Removal.IDLE,
        description="surplus pilots to end: none; pending ones; idle ones too; all, whose running jobs end first",
    )
    removal_margin: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False), NoTruth] = Field(
        default=0.1, description="share of the wanted pilots that may be there in surplus"
    )
    pilot: Name = Field(default="penstock", description="an entry point of penstock.pilot_commands")
    pilot_api_url: str | None = Field(
        default=None, description="how pilots there reach the API: a URL, or spool:/FOLDER of a relay; none: as we do"
    )
    python: str = Field(default="python3", description="the Python of its nodes, 3.6 or newer")
    gpu: Gpus | None = Field(default=None, description="GPUs of one pilot; none: it has none")
    system: System = Field(default=System(), description="operating system: name, glibc, user_namespaces")
    architecture: Architecture = Field(default=Architecture(), description="processor: name, level")
    power: Power | None = Field(default=None, description="of one core, HS23; jobs that give their cpu_work need it")
    io: Rates = Field(default=Rates(), description="rates of a node in MB/s: scratch, lan")
    containers: Names = Field(
        default=(), description="container runtimes of its nodes, such as `apptainer`; jobs that name an image need one"
    )

    @property
    def caps(self) -> PilotCaps:
        """Its own limits of pilots."""
        return PilotCaps.model_construct(**{name: getattr(self, name) for name in PilotCaps.model_fields})

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
    pilots: PilotCaps = Field(default=PilotCaps(), description="limits over all of its queues")


class MetaSiteEntry(PilotCaps):
    """Queues that are as good as each other, seen as one: they share limits, and demand is spread over them."""

    name: Name = Field(description="unique among meta-sites")
    queues: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="its members, each as SITE/QUEUE")


VoShare = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), NoTruth]


class SitesFile(Model):
    """What `penstock sites apply` takes: the whole truth about sites and storages."""

    storages: tuple[StorageEntry, ...] = Field(description="every storage that sites and steps name")
    sites: tuple[SiteEntry, ...] = Field(description="every site; one that is left out gets nothing new")
    vo_shares: dict[Name, VoShare] = Field(
        default={}, description="how VOs split the pilots of a queue that several want; 1 for one that is left out"
    )
    pilots: PilotCaps = Field(default=PilotCaps(), description="limits over all sites and VOs")
    vo_pilots: dict[Name, PilotCaps] = Field(default={}, description="limits by VO, over all sites")
    meta_sites: tuple[MetaSiteEntry, ...] = Field(default=(), description="groups of queues with limits of their own")

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
        known = {f"{site.name}/{queue.name}" for site in self.sites for queue in site.queues}
        _unique([meta.name for meta in self.meta_sites], "meta-sites")
        for meta in self.meta_sites:
            _unique(list(meta.queues), f"queues of meta-site {meta.name}")
            for label in meta.queues:
                if label not in known:
                    raise ValueError(f"meta-site {meta.name} names the queue {label}, which is not declared")
        return self


def _unique(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what} are named {name}")
