"""The policy file of a VO: how its groups and owners share what it gets, and what it limits itself to."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from schemas.bounds import Count, NoTruth
from schemas.campaign import Model
from schemas.names import Name

MOST_GROUPS = 1_000
MOST_OWNERS = 1_000
"""Named in all groups together; who is not named has share 1."""
MOST_LIMITS = 1_000
LEAST_SHARE = 1e-6
MOST_SHARE = 1e6

Share = Annotated[float, Field(ge=LEAST_SHARE, le=MOST_SHARE, allow_inf_nan=False), NoTruth]
Subject = Annotated[str, Field(min_length=1, max_length=200)]
"""Who an owner is, as its token says."""


class GroupShare(Model):
    """What a group gets, and how its owners divide it."""

    share: Share = Field(default=1.0, description="in proportion to the other groups of the VO")
    owners: Annotated[dict[Subject, Share], Field(max_length=MOST_OWNERS)] = Field(
        default={}, description="shares of owners in proportion to each other; who is not named has 1"
    )


class ShareEntries(Model):
    """Shares of the VO."""

    groups: Annotated[dict[Name, GroupShare], Field(max_length=MOST_GROUPS)] = Field(
        default={}, description="by name; a group that is not named has share 1"
    )

    @model_validator(mode="after")
    def _owners_are_not_too_many(self) -> Self:
        named = sum(len(group.owners) for group in self.groups.values())
        if named > MOST_OWNERS:
            raise ValueError(f"{named} owners are named in all groups; at most {MOST_OWNERS} may be")
        return self


class LimitEntry(Model):
    """At most `max_running` jobs at a time, of those that all of its selectors are true of."""

    name: Name = Field(description="unique in the VO")
    max_running: Count = Field(description="jobs that are matched, running or stalled; 0: none may start")
    site: Name | None = Field(default=None, description="jobs at this site")
    group: Name | None = Field(default=None, description="jobs of this group")
    owner: Subject | None = Field(default=None, description="jobs of this owner")
    job_type: Name | None = Field(default=None, description="jobs of this type")
    label: Name | None = Field(default=None, description="jobs whose requirements carry this label")

    @model_validator(mode="after")
    def _selects_something(self) -> Self:
        if all(value is None for value in (self.site, self.group, self.owner, self.job_type, self.label)):
            raise ValueError(
                f"limit {self.name} selects nothing; say which jobs it is about: site, group, owner, job_type or label"
            )
        return self


class Policy(Model):
    """What `penstock policy apply` takes: the whole truth about a VO's shares and limits."""

    shares: ShareEntries = Field(default=ShareEntries(), description="of groups and owners; empty: all alike")
    limits: Annotated[tuple[LimitEntry, ...], Field(max_length=MOST_LIMITS)] = Field(
        default=(), description="of running jobs, the VO's own"
    )

    @model_validator(mode="after")
    def _limits_are_told_apart(self) -> Self:
        seen: set[str] = set()
        for limit in self.limits:
            if limit.name in seen:
                raise ValueError(f"two limits are named {limit.name}")
            seen.add(limit.name)
        return self
