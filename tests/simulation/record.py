"""What a simulation measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.world import HOUR, Case, Job


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a plot: cores wanted by waiting and running jobs, cores held by pilots, core-hours wasted so far."""

    at: float
    demand: int
    running: int
    wasted: float


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one rule set in one case."""

    case: str
    rules: str
    wasted: float
    """Core-hours of running pilots that no job used, start-up included."""
    wasted_unused: float
    """Of them, those of pilots that never had a job."""
    used: float
    """Core-hours that jobs had, those of lost attempts included."""
    median_wait: float
    """Seconds from arrival to the first start."""
    p95_wait: float
    pilots: int
    """Submitted."""
    without_job: int
    """Of them, those that never ran a job, taken back before they started or not."""
    over_cap: int
    """Cycles after which more pilots lived than some cap allows."""
    lost_jobs: int
    unfinished: int
    """Jobs that had not ended when patience did."""
    points: tuple[Point, ...] = field(repr=False, default=())


class Record:
    """Fills while a simulation runs."""

    def __init__(self, case: Case, rules: str) -> None:
        self._case = case
        self._rules = rules
        self.submitted = 0
        self.ended = 0
        self.lost_jobs = 0
        self.running_cores = 0
        self.over_cap = 0
        self.least_free = 0
        """The fewest free cores that a pilot ever had; below 0 it had more jobs than cores."""
        self._held = self._used = self._held_unused = 0.0
        self._with_job = 0
        self._waits: dict[int, float] = {}
        self._ends: dict[int, int] = {}
        self._points: list[Point] = []

    @property
    def held(self) -> float:
        """Core-seconds of running pilots."""
        return self._held

    @property
    def used(self) -> float:
        """Core-seconds that jobs had."""
        return self._used

    @property
    def ends(self) -> dict[int, int]:
        """How often each job ended, by id."""
        return self._ends

    def began(self, job: Job, now: float) -> None:
        """Only the first start of a job ends its wait."""
        self._waits.setdefault(job.id, now - job.arrival)

    def job_ended(self, job: Job) -> None:
        """It is done."""
        self.ended += 1
        self._ends[job.id] = self._ends.get(job.id, 0) + 1

    def settle(self, held: float, used: float, *, had_job: bool) -> None:
        """A pilot's core-seconds."""
        self._held += held
        self._used += used
        self._with_job += had_job
        if not had_job:
            self._held_unused += held

    def check_caps(self, pending: Sequence[int], running: Sequence[int]) -> None:
        """Count a cycle that left some cap behind."""
        if sum(pending) + sum(running) > self._case.max_pilots or any(
            waits > queue.max_pending or waits + runs > queue.max_pilots
            for queue, waits, runs in zip(self._case.queues, pending, running, strict=True)
        ):
            self.over_cap += 1

    def sample(self, now: float, demand: int, open_waste: float) -> None:
        """One point of a plot."""
        wasted = (self._held - self._used + open_waste) / HOUR
        self._points.append(Point(now, demand, self.running_cores, wasted))

    def finish(self, now: float, waiting: Sequence[Job]) -> None:
        """What never started has waited until now."""
        for job in waiting:
            self._waits.setdefault(job.id, now - job.arrival)

    def result(self) -> Result:
        """The figures."""
        waits = sorted(self._waits.values())
        return Result(
            case=self._case.name,
            rules=self._rules,
            wasted=(self._held - self._used) / HOUR,
            wasted_unused=self._held_unused / HOUR,
            used=self._used / HOUR,
            median_wait=quantile(waits, 0.5),
            p95_wait=quantile(waits, 0.95),
            pilots=self.submitted,
            without_job=self.submitted - self._with_job,
            over_cap=self.over_cap,
            lost_jobs=self.lost_jobs,
            unfinished=len(self._case.jobs) - self.ended,
            points=tuple(self._points),
        )


def quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of them does not exceed; 0 of none."""
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)] if ordered else 0.0
