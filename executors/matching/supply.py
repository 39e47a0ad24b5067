"""Jobs of one level as a round has them: had from the backlog in growing portions, given away in order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from executors.matching.terms import Backlog
from pipeline.store.jobs import JobRow
from pipeline.store.match_rows import Level

LEAST_PORTION = 16
"""Jobs that are asked for at the least, if the slots have room for so many: each asking costs several statements."""


class Supply:
    """What is had of one level and not given away."""

    def __init__(self, level: Level, backlog: Backlog) -> None:
        self._level = level
        self._backlog = backlog
        self._jobs: list[JobRow] = []
        self._given = 0
        self._ended = False

    def next_jobs(self, most: int, ceiling: int) -> Sequence[JobRow]:
        """Up to `most` jobs, which are not given away yet. No more than `ceiling` can be of use in this round."""
        lacking = most - (len(self._jobs) - self._given)
        if lacking > 0 and not self._ended:
            ahead = min(max(len(self._jobs), LEAST_PORTION), ceiling)
            wanted = max(lacking, ahead)
            had = self._backlog.take(self._level, wanted)
            self._ended = len(had) < wanted
            self._jobs.extend(had)
        return self._jobs[self._given : self._given + most]

    def give(self, count: int) -> None:
        """So many of the next jobs are gone."""
        self._given += count

    def head_id(self) -> int | None:
        """The next job, or the least id that it can have; None when there is none to be had."""
        if self._given < len(self._jobs):
            return self._jobs[self._given].id
        if self._ended:
            return None
        return self._jobs[-1].id + 1 if self._jobs else self._level.head_job_id


def older_than(jobs: Sequence[JobRow], job_id: int) -> int:
    """How many of these jobs, the oldest first, come before that one."""
    return bisect_left(jobs, job_id, key=attrgetter("id"))
