"""A queue to be matched, as values: who wants what, how much of it waits, and the sites where it may run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from schemas.sites import SiteQueueEntry

VO = "default"
Wish = dict[str, Any]
"""A requirement as a job file writes it."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """An autocluster: what its jobs want, whom they are charged to, and how many wait in each of its campaigns.

    `batches` are (priority, jobs), one for each campaign, the highest priority first.
    """

    group: str
    owner: str
    job_type: str
    wish: Wish
    batches: tuple[tuple[int, int], ...]

    @property
    def jobs(self) -> int:
        """How many wait."""
        return sum(count for _, count in self.batches)


@dataclass(frozen=True, slots=True)
class Farm:
    """A kind of node at a site: a site queue. `entry` is what it declares, `weight` its part of all pilots."""

    site: str
    queue: str
    entry: dict[str, Any]
    weight: float

    def declared(self) -> SiteQueueEntry:
        """The entry as a sites file has it."""
        return SiteQueueEntry.model_validate({"name": self.queue, "vos": [VO], **self.entry})


@dataclass(frozen=True, slots=True)
class World:
    """All that waits, and all places."""

    name: str
    clusters: tuple[Cluster, ...]
    farms: tuple[Farm, ...]

    @property
    def jobs(self) -> int:
        """How many wait in all."""
        return sum(cluster.jobs for cluster in self.clusters)

    @property
    def sites(self) -> tuple[str, ...]:
        """Their names, each once."""
        return tuple(dict.fromkeys(farm.site for farm in self.farms))


def scaled(sizes: Iterable[float], total: int) -> list[int]:
    """Whole numbers in the proportions of `sizes`, each at least 1, that add up to exactly `total`."""
    wanted = list(sizes)
    factor = (total - len(wanted)) / sum(wanted)
    whole = [1 + int(size * factor) for size in wanted]
    whole[max(range(len(whole)), key=whole.__getitem__)] += total - sum(whole)
    return whole
