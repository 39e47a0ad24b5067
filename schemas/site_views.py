"""What the API says of sites, and the commands on them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from schemas.campaign import Model
from schemas.requirements import Name
from schemas.sites import PilotCaps, Removal
from schemas.states import PilotState


class SitesDiff(Model):
    """What `sites apply` changed, or would change: labels such as `site A`, `queue A/short`, `storage disk`."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = Field(default=(), description="no longer declared; nothing new goes there")
    warnings: tuple[str, ...] = Field(default=(), description="unknown VOs, batch systems and kinds of storage")
    dry_run: bool = False


class BanRequest(Model):
    """POST /v1/sites/{site}/ban: the whole site or one queue, for the caller's VO."""

    queue: Name | None = None
    vo: Name | None = Field(default=None, description="the caller's own; another is refused")
    why: Annotated[str, Field(min_length=1, max_length=500)]
    until: AwareDatetime | None = Field(default=None, description="null: until somebody allows it")


class OnlyRequest(BanRequest):
    """POST /v1/sites/{site}/test: jobs of one type alone may go there, until somebody allows the others again."""

    job_type: Name = "test"


class AllowRequest(Model):
    """POST /v1/sites/{site}/allow: lift every ban and test mode of the caller's VO within the scope, also narrower
    ones."""

    queue: Name | None = None
    vo: Name | None = Field(default=None, description="the caller's own; another is refused")


class BanView(Model):
    """A ban, or a test mode, in force."""

    id: int
    site: str
    queue: str | None
    vo: str | None = Field(description="null: on everybody")
    banned_by: str
    why: str
    created_at: datetime
    until: datetime | None
    only_job_type: str | None = Field(default=None, description="test mode: jobs of this type may still go there")


class Allowed(Model):
    """What `allow` did."""

    lifted: tuple[BanView, ...]
    woken: int = Field(description="held jobs that are looked at again")


class QueueOfSite(Model):
    """A site queue. memory, disk: MiB; wall_time: seconds."""

    name: str
    batch_system: str
    cores: int
    memory: int
    disk: int
    wall_time: int
    tags: tuple[str, ...]
    vos: tuple[str, ...]
    nodes: int = Field(default=1, description="of one batch job; cores, memory and disk are those of each")
    max_pilots: int
    max_pending_pilots: int | None = Field(default=None, description="pilots that do not run yet")
    max_held_pilots: int | None = Field(default=None, description="from so many on nothing new is submitted")
    max_submissions: int | None = Field(default=None, description="new pilots in one cycle of provisioning")
    removal: Removal | None = Field(default=None, description="which surplus pilots go before they end by themselves")
    declared: bool
    pilots: dict[PilotState, int] = Field(description="the VO's pilots by state, states that occur")
    backoff_until: datetime | None = Field(description="its batch system failed; left alone until then")
    reason: str | None


class SiteView(Model):
    """A site with its queues."""

    name: str
    declared: bool
    storages: tuple[str, ...] = Field(description="the first one takes the outputs of jobs that name none")
    max_running_jobs: int | None
    queues: tuple[QueueOfSite, ...]


class StorageView(Model):
    """A storage."""

    name: str
    kind: str
    url: str
    declared: bool


class CapsView(PilotCaps):
    """Limits of pilots over several queues."""

    kind: Literal["all", "vo", "site", "meta"] = Field(description="everywhere, a VO, a site, or a meta-site")
    name: str = Field(description="of the VO, the site or the meta-site; empty: everywhere")
    queues: tuple[str, ...] = Field(default=(), description="of a meta-site, each as SITE/QUEUE")


class SitesView(Model):
    """Every site and storage, and the bans and limits of pilots that concern the caller's VO."""

    sites: tuple[SiteView, ...]
    storages: tuple[StorageView, ...]
    bans: tuple[BanView, ...]
    pilot_caps: tuple[CapsView, ...] = Field(default=(), description="limits of pilots over several queues")
