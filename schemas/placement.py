"""Where a requirement may be met at all: the rule that placement holds jobs by, and that submission warns by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.requirements import Requirement, Resource, misfits
from schemas.sites import SiteQueueEntry

START_UP = 60
"""Seconds of its life that a pilot may use up until its first job starts."""


@dataclass(frozen=True, slots=True)
class QueueOffer:
    """What a fresh pilot of one site queue offers to one VO."""

    queue: str
    resource: Resource
    banned: bool = False

    @property
    def label(self) -> str:
        """`SITE/queue`."""
        return f"{self.resource.site}/{self.queue}"


def queue_offer(site: str, entry: SiteQueueEntry, *, margin: float, banned: bool = False) -> QueueOffer:
    """The offer of a site queue; `margin` is how many seconds before its wall time a pilot ends."""
    resource = Resource(
        site=site,
        cores=entry.cores,
        memory=entry.memory,
        disk=entry.disk,
        wall_time=int(entry.lifetime(margin)) - START_UP,
        tags=entry.tags,
    )
    return QueueOffer(entry.name, resource, banned)


def unplaceable(requirement: Requirement, offers: Iterable[QueueOffer]) -> str | None:
    """Why none of a VO's site queues can run `requirement`, by the one that comes closest; None when one can."""
    closest: tuple[bool, int, str] | None = None
    banned = []
    for offer in offers:
        reasons = misfits(requirement, offer.resource)
        if not reasons and not offer.banned:
            return None
        if not reasons:
            banned.append(offer.label)
        rank = (not _is_wanted(requirement, offer.resource.site), len(reasons), f"{offer.label} {'; '.join(reasons)}")
        closest = rank if closest is None else min(closest, rank)
    if banned:
        return f"no site can run it: {', '.join(banned)} would, but {'is' if len(banned) == 1 else 'are'} banned"
    if closest is None:
        return "no site can run it: no site queue is declared for this VO"
    if closest[0] and requirement.sites:
        return f"no site can run it: no site queue of this VO is at {', '.join(requirement.sites)}"
    return f"no site can run it: {closest[2]}"


def _is_wanted(requirement: Requirement, site: str) -> bool:
    return site not in requirement.banned_sites and (not requirement.sites or site in requirement.sites)
