"""What a job wants and what a slot has, in the same words, and the rule that compares them."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.bounds import Number

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}$")]
Names = tuple[Name, ...]


class Requirement(BaseModel):
    """What one job of a template needs. `memory` and `disk` are MiB, `wall_time` is seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cores: Number = Field(default=1, description="processor cores")
    memory: Number = Field(default=1024, description="resident memory, MiB")
    disk: Number = Field(default=1024, description="scratch space, MiB")
    wall_time: Number = Field(default=3600, description="longest run time, seconds")
    tags: Names = Field(default=(), description="tags that the site queue must carry, all of them")
    sites: Names = Field(default=(), description="sites that may run it; empty: any")
    banned_sites: Names = Field(default=(), description="sites that may not run it")

    def signature(self) -> str:
        """A hash of the meaning: equal requirements share it, in whatever order names were written."""
        plain = self.model_copy(
            update={name: tuple(sorted(set(getattr(self, name)))) for name in ("tags", "sites", "banned_sites")}
        )
        return hashlib.sha256(plain.model_dump_json().encode()).hexdigest()


class Resource(BaseModel):
    """What a slot (or a site queue's fresh pilot) offers: free `cores`, `memory` and `disk` in MiB, seconds left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Name
    cores: int
    memory: int
    disk: int
    wall_time: int
    tags: Names = ()


def misfits(requirement: Requirement, resource: Resource) -> tuple[str, ...]:
    """Every reason why `resource` can't run `requirement`; empty when it can."""
    reasons = []
    for word, unit in (("cores", ""), ("memory", " MiB"), ("disk", " MiB"), ("wall_time", " s")):
        wanted, offered = getattr(requirement, word), getattr(resource, word)
        if wanted > offered:
            reasons.append(f"wants {word} {wanted}{unit}, has {offered}{unit}")
    missing = sorted(set(requirement.tags) - set(resource.tags))
    if missing:
        reasons.append(f"lacks tags {', '.join(missing)}")
    if requirement.sites and resource.site not in requirement.sites:
        reasons.append(f"{resource.site} is not among the job's sites")
    if resource.site in requirement.banned_sites:
        reasons.append(f"{resource.site} is banned by the job")
    return tuple(reasons)


def fits(requirement: Requirement, resource: Resource) -> bool:
    """Whether `resource` can run `requirement`."""
    return not misfits(requirement, resource)
