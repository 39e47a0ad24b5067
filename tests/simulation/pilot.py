"""A pilot in the simulation, from its submission to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from tests.simulation.world import Job, Queue


class Stage(Enum):
    """Where it is in its life."""

    REQUESTED = auto()
    """Wanted, and refused by its batch system so far; only rule sets that keep such pilots know it."""
    PENDING = auto()
    """In the batch system's queue."""
    STARTING = auto()
    """Holds its cores, and cannot take jobs yet."""
    ACTIVE = auto()
    DRAINING = auto()
    """Takes no more jobs, and ends with its last one."""
    GONE = auto()


@dataclass(slots=True, eq=False)
class Pilot:
    """`number`: how many were submitted to its queue before. Times are seconds of the simulation."""

    id: int
    queue: Queue
    number: int
    submitted: float
    stage: Stage = Stage.PENDING
    started: float | None = None
    ends: float = 0.0
    """When its life is over, once it has started."""
    free: int = 0
    """Cores that no job has."""
    jobs: dict[int, Job] = field(default_factory=dict)
    begun: dict[int, float] = field(default_factory=dict)
    """When each of its jobs began."""
    came_up: bool = False
    """It could take jobs once."""
    had_job: bool = False
    used: float = 0.0
    """Core-seconds that jobs had, of those that have left."""
    idle_marker: int = 0
    """Counts the times that it became idle, so that a late look at it knows whether it still is."""

    @property
    def is_pending(self) -> bool:
        """Not started yet."""
        return self.stage in {Stage.REQUESTED, Stage.PENDING}

    @property
    def is_running(self) -> bool:
        """It holds cores of the batch system."""
        return self.stage in {Stage.STARTING, Stage.ACTIVE, Stage.DRAINING}

    @property
    def is_idle(self) -> bool:
        """It could take jobs, and has none."""
        return self.stage is Stage.ACTIVE and not self.jobs
