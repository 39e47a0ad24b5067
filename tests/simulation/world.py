"""What a simulation is about: queues of batch systems, groups of like jobs, the jobs, and when something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HOUR = 3_600.0
DAY = 86_400.0
Span = tuple[float, float]
"""From a second, until before another."""


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs that nothing tells apart until they run. `wall_time`: seconds that each asks for and never exceeds."""

    index: int
    cores: int
    wall_time: float
    tag: str = ""
    """What a queue must carry; empty: any will do."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job; `length`: seconds that it takes."""

    id: int
    arrival: float
    group: Group
    length: float


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of a site's batch system, how it treats pilots, and what is wrong with it. Times in seconds."""

    index: int
    site: str
    cores: int
    """Of one pilot."""
    slots: int
    """Pilots that it runs at a time; the others wait until one ends, in the order in which their turn came."""
    max_pilots: int
    max_pending: int
    wall_time: float
    queue_time: float
    """Median from submission to start while a slot is free, when others use the site half; lognormal."""
    spread: float = 0.8
    """Sigma of its logarithm."""
    phase: float = 0.0
    """Second of the day at which others use the site most."""
    start_up: float = 60.0
    """From the pilot's start until it may take a job."""
    credential: float | None = None
    """Life of the delegated proxy that a pilot is submitted with; None: nothing bounds it but the wall time."""
    mean_life: float = 20 * DAY
    """Until a node crashes, exponential."""
    refuses: tuple[Span, ...] = ()
    """When submissions fail."""
    starts_nothing: tuple[Span, ...] = ()
    """When what was submitted in it never starts."""
    kills: tuple[Span, ...] = ()
    """When pilots that start die before they take a job."""
    tags: frozenset[str] = frozenset()

    def fits(self, group: Group, margin: float) -> bool:
        """Whether its fresh pilots, which end `margin` before the wall time, can run such jobs."""
        return (
            group.cores <= self.cores
            and (not group.tag or group.tag in self.tags)
            and group.wall_time <= self.wall_time - margin - self.start_up
        )


@dataclass(frozen=True, slots=True)
class Case:
    """A situation that all rule sets are put into: the same queues, and the same jobs at the same times."""

    name: str
    seed: int
    days: float
    """Jobs arrive in them; the simulation goes on until the last one has ended."""
    queues: tuple[Queue, ...]
    groups: tuple[Group, ...]
    jobs: tuple[Job, ...]
    max_pilots: int
    """Over all queues, in any live state."""
    is_capped: bool = False
    """Whether what is beyond that is not submitted at all, whoever asks for it."""
    blind: tuple[Span, ...] = ()
    """When the query of the waiting jobs fails, or comes back empty."""


def within(spans: Sequence[Span], at: float) -> bool:
    """Whether one of the spans holds that second."""
    return any(begin <= at < end for begin, end in spans)
