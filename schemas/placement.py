"""Where a requirement may be met at all: the rule that placement holds jobs by, and that submission warns by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from schemas.requirements import Fit, Requirement, Resource, fits
from schemas.sites import SiteQueueEntry

START_UP = 60.0
"""Seconds of its life that a pilot may use up until its first job starts."""


@dataclass(frozen=True, slots=True)
class QueueOffer:
    """What a fresh pilot of one site queue offers to one VO."""

    queue: str
    resource: Resource
    banned: bool = False
    only_job_type: str | None = None
    """In test mode, the one type of jobs that it takes."""

    @property
    def label(self) -> str:
        """`SITE/queue`."""
        return f"{self.resource.site}/{self.queue}"


def queue_offer(
    site: str, entry: SiteQueueEntry, *, margin: float, banned: bool = False, only_job_type: str | None = None
) -> QueueOffer:
    """The offer of a site queue; `margin` is how many seconds before its wall time a pilot ends."""
    return QueueOffer(entry.name, fresh_pilot(site, entry, margin), banned, only_job_type)


def fresh_pilot(site: str, entry: SiteQueueEntry, margin: float) -> Resource:
    """What a pilot of this queue offers when it has just begun, as the sites file declares it."""
    return Resource(
        site=site,
        cores=entry.cores,
        memory=entry.memory,
        disk=entry.disk,
        wall_time=int(entry.lifetime(margin) - min(START_UP, entry.wall_time / 10)),
        gpu=entry.gpu,
        system=entry.system,
        power=entry.power,
        architecture=entry.architecture,
        io=entry.io,
        tags=entry.tags,
        containers=entry.containers,
    )


def unplaceable(requirement: Requirement, offers: Iterable[QueueOffer], job_type: str) -> str | None:
    """Why none of a VO's site queues can run such jobs, by the one that comes closest; None when one can."""
    closest: tuple[bool, int, str] | None = None
    closed = []
    for offer in offers:
        fit = fits(requirement, offer.resource)
        why = _closed(offer, job_type)
        if fit and why is None:
            return None
        if fit:
            closed.append(f"{offer.label} would, but {why}")
        closest = min(filter(None, (closest, _rank(requirement, offer, fit))))
    if closed:
        return f"no site can run it: {'; '.join(closed)}"
    if closest is None:
        return "no site can run it: no site queue is declared for this VO"
    if closest[0] and (wanted := sorted(set(_sites(requirement)))):
        return f"no site can run it: no site queue of this VO is at {', '.join(wanted)}"
    return f"no site can run it: {closest[2]}"


def _closed(offer: QueueOffer, job_type: str) -> str | None:
    """Why the queue takes no such jobs, whatever they need."""
    if offer.banned:
        return "is banned"
    if offer.only_job_type not in {None, job_type}:
        return f"is in test mode: it takes jobs of type {offer.only_job_type} alone"
    return None


def _rank(requirement: Requirement, offer: QueueOffer, fit: Fit) -> tuple[bool, int, str]:
    wanted = any(
        offer.resource.site not in one.banned_sites and (not one.sites or offer.resource.site in one.sites)
        for one in requirement.specifications()
    )
    return not wanted, len(fit.reasons), f"{offer.label} {'; '.join(fit.reasons)}"


def _sites(requirement: Requirement) -> Iterator[str]:
    for specification in requirement.specifications():
        yield from specification.sites
