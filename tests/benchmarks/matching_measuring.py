"""What a run of matching did: matches by second, latencies, and who used the processors."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

WARM = 0.1
"""Share of a run's matches before the clock runs: buffers fill and caches are built meanwhile."""
WINDOW = 10.0
"""Seconds over which the slowest rate is taken."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An offer that was answered at `at`, `latency` seconds after its publication, with so many jobs.

    Without a latency it had been parked: the jobs came later than the offer.
    """

    at: float
    latency: float | None
    jobs: int


@dataclass(slots=True)
class Record:
    """All answers of a run."""

    answers: list[Answer] = field(default_factory=list)
    parked: int = 0
    """Offers for which nothing was found at once."""

    def rate(self) -> float:
        """Matches/s without the warm-up."""
        warm = self.warm()
        begun = warm[0].at
        return sum(answer.jobs for answer in warm[1:]) / (warm[-1].at - begun)

    def slowest(self) -> float:
        """Matches/s in the slowest ten seconds without the warm-up; of the whole where it is shorter."""
        warm = self.warm()
        begun, ended = warm[0].at, warm[-1].at
        if ended - begun <= WINDOW:
            return self.rate()
        seconds = [0] * (int(ended - begun) + 1)
        for answer in warm[1:]:
            seconds[int(answer.at - begun)] += answer.jobs
        sums = [0]
        for jobs in seconds[:-1]:
            sums.append(sums[-1] + jobs)
        wide = int(WINDOW)
        return min(b - a for a, b in zip(sums, sums[wide:], strict=False)) / wide

    def warm(self) -> Sequence[Answer]:
        """The answers since a tenth of the matches was made."""
        total = sum(answer.jobs for answer in self.answers)
        seen = 0
        for index, answer in enumerate(self.answers):
            seen += answer.jobs
            if seen >= WARM * total:
                return self.answers[index:]
        return self.answers

    def per_offer(self, share: float) -> float:
        """Seconds from an offer's publication to its answer, which so many of the answered offers do not exceed."""
        answered = ((answer.latency, 1) for answer in self.warm() if answer.latency is not None and answer.jobs)
        return _quantile(sorted(answered), share)

    def per_job(self, share: float) -> float:
        """The same of matched jobs: from the publication of the offer that got it."""
        matched = ((answer.latency, answer.jobs) for answer in self.warm() if answer.latency is not None)
        return _quantile(sorted(matched), share)


def _quantile(weighted: Sequence[tuple[float, int]], share: float) -> float:
    wanted, seen = share * sum(weight for _, weight in weighted), 0
    for value, weight in weighted:
        seen += weight
        if seen >= wanted:
            return value
    return 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Processor seconds that each party has used up to `at`."""

    at: float
    used: Mapping[str, float]


def read_processors(parties: Mapping[str, Sequence[int]]) -> Reading:
    """What the processes of each party, with their children, living or reaped, have used."""
    used = {name: sum(_used(pid) for pid in pids) for name, pids in parties.items()}
    return Reading(time.perf_counter(), used)


def _used(pid: int) -> float:
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        # A reaped child's time is in its parent's; our own other children (servers, consumers) are parties themselves.
        for each in [process, *([] if pid == os.getpid() else process.children(recursive=True))]:
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
                if pid != os.getpid():
                    total += times.children_user + times.children_system
    return total


def cores_used(readings: Sequence[Reading]) -> dict[str, float]:
    """Cores that each party kept busy from the first reading to the last."""
    first, last = readings[0], readings[-1]
    return {name: (last.used[name] - first.used[name]) / (last.at - first.at) for name in last.used}
