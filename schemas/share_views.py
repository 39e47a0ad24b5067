"""What the API says of a VO's policy, of what its groups and owners got, and of the limits that concern it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from schemas.campaign import Model
from schemas.policy import Policy


class PolicyDiff(Model):
    """What `policy apply` changed, or would change: labels such as `group prod: share 3 -> 2`."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = Field(default=(), description="not named any more: the share is 1, the limit is none")
    warnings: tuple[str, ...] = Field(default=(), description="groups, owners, sites and job types not known yet")
    dry_run: bool = False


class PolicyView(Model):
    """A VO's policy as it was applied last; an empty one where nobody has applied any."""

    policy: Policy
    applied_by: str | None
    applied_at: datetime | None


class ShareView(Model):
    """What a group, or one of its owners, is to get of the VO, and got. usage, charged, settled, used: core-seconds."""

    group: str
    owner: str | None = Field(description="a subject; null: the whole group")
    issuer: str | None = Field(description="who vouches for that subject")
    share: float = Field(description="as the policy has it: among groups, or among the owners of one group")
    entitled: float = Field(description="the part of the VO that it is to get when all who are listed want more")
    usage: float = Field(description="what counts now: what was charged, faded by the half-life")
    part: float = Field(description="the part of the VO's present usage that is its own")
    charged: int = Field(description="promised to all of its jobs that were ever matched")
    settled: int = Field(description="the part of `charged` whose attempts have ended")
    used: int = Field(description="what the attempts that have ended really took")


class SharesView(Model):
    """Groups, each followed by its owners; the one that is next in turn comes first."""

    half_life: float = Field(description="seconds after which usage counts for half")
    items: tuple[ShareView, ...]


class LimitView(Model):
    """A limit that concerns the VO. Of a start rate, `running` is what has started lately and still counts."""

    name: str = Field(description="the rule's, or the site's")
    kind: Literal["site", "rule", "start_rate"]
    site: str | None = None
    group: str | None = None
    owner: str | None = None
    job_type: str | None = None
    label: str | None = None
    maximum: int = Field(description="jobs running at a time; of a start rate, jobs started per `seconds`")
    running: int = Field(description="jobs that count now; of a site's limit, those of every VO")
    free: int
    seconds: float | None = Field(default=None, description="of a start rate: its period")


class LimitsView(Model):
    """Sites' limits, the VO's own rules, start rates."""

    items: tuple[LimitView, ...]
