"""Which job goes to which pilot: simple, and the same for all rule sets."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tests.simulation.pilot import Pilot
from tests.simulation.world import Group, Job

OLD = 600.0
"""Seconds of waiting from which GlideinWMS calls a job an old one."""


class Matcher:
    """Waiting jobs by group, and active pilots that have free cores."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._waiting: dict[Group, deque[Job]] = {group: deque() for group in sorted(groups, key=_widest_first)}
        self.open: dict[int, Pilot] = {}
        """Those that take jobs and have free cores, by id."""

    def counts(self) -> dict[Group, int]:
        """Waiting jobs by group."""
        return {group: len(jobs) for group, jobs in self._waiting.items() if jobs}

    def old_counts(self, now: float) -> dict[Group, int]:
        """Those that have waited for long."""
        counts = {}
        for group, jobs in self._waiting.items():
            if jobs and now - jobs[0].arrival > OLD:
                counts[group] = sum(1 for job in jobs if now - job.arrival > OLD)
        return counts

    def waiting_cores(self) -> int:
        """Cores that waiting jobs want."""
        return sum(group.cores * len(jobs) for group, jobs in self._waiting.items())

    def still_waiting(self) -> list[Job]:
        """All of them."""
        return [job for jobs in self._waiting.values() for job in jobs]

    def place(self, job: Job, now: float, *, again: bool = False) -> Pilot | None:
        """A pilot for a job that has just come: the one that it fills best; None: it waits.

        One that comes `again`, since it lost its pilot, is the next of its group.
        """
        queue = self._waiting[job.group]
        if not queue:  # behind others of its kind, for which there is no pilot, it need not ask
            fitting = (pilot for pilot in self.open.values() if fits(pilot, job.group, now))
            best = min(fitting, key=lambda pilot: (pilot.free, pilot.ends, pilot.id), default=None)
            if best is not None:
                return best
        if again:
            queue.appendleft(job)
        else:
            queue.append(job)
        return None

    def take(self, pilot: Pilot, now: float) -> Job | None:
        """The next job for this pilot: the widest that fits, of these the one that has waited longest."""
        best: deque[Job] | None = None
        rank: tuple[int, float] | None = None
        for group, queue in self._waiting.items():
            if not queue or not fits(pilot, group, now):
                continue
            mine = (-group.cores, queue[0].arrival)
            if rank is None or mine < rank:
                best, rank = queue, mine
        return None if best is None else best.popleft()


def _widest_first(group: Group) -> tuple[int, int]:
    return -group.cores, group.index


def fits(pilot: Pilot, group: Group, now: float) -> bool:
    """Whether this active pilot may take such a job now."""
    return (
        group.cores <= pilot.free
        and now + group.wall_time <= pilot.ends
        and (not group.tag or group.tag in pilot.queue.tags)
    )
