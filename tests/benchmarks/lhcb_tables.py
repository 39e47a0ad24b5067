"""LHCb's tables of 2026-03-28 as they are stored in `lhcb/`, and a choice of queues that comes near a count of jobs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parent / "lhcb"
_EXCHANGES = 3_000


@dataclass(frozen=True, slots=True)
class TaskQueue:
    """One task queue of DIRAC: identical jobs. `cpu_time` is HS06 seconds."""

    id: int
    group: str
    cpu_time: int
    priority: str
    jobs: int


@dataclass(frozen=True, slots=True)
class Count:
    """How many queues have a value, and how many jobs those hold."""

    queues: int
    jobs: int


@cache
def rows(table: str) -> Sequence[Mapping[str, str]]:
    """The rows of TABLE.csv."""
    with (FOLDER / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def counts(table: str, column: str) -> dict[str, Count]:
    """What a table of a distribution says, by the value in `column`."""
    return {row[column]: Count(int(row["n_tqs"]), int(row["total_jobs"])) for row in rows(table)}


def task_queues() -> list[TaskQueue]:
    """The 498 queues that are listed one by one, and the missing ones, which share the jobs that are missing."""
    listed = [
        TaskQueue(int(row["TQId"]), row["OwnerGroup"], int(row["CPUTime"]), row["Priority"], int(row["n_jobs"]))
        for row in rows("jobs_per_tq")
    ]
    (overview,) = rows("scale_overview")
    missing = int(overview["active_tqs"]) - len(listed)
    left = int(overview["waiting_jobs"]) - sum(queue.jobs for queue in listed)
    sizes = [left // missing + (number < left % missing) for number in range(missing)]
    return [*listed, *(TaskQueue(-number, "lhcb_data", 86_400, "", size) for number, size in enumerate(sizes, 1))]


def choose(queues: Sequence[TaskQueue], wanted: Count, random: Random) -> list[TaskQueue]:
    """As many of the queues as wanted, exchanged one by one while that brings their jobs nearer to the wanted ones."""
    order = random.sample(queues, len(queues))
    chosen, others = order[: wanted.queues], order[wanted.queues :]
    missing = wanted.jobs - sum(queue.jobs for queue in chosen)
    for _ in range(_EXCHANGES if chosen and others else 0):
        out, into = random.randrange(len(chosen)), random.randrange(len(others))
        gain = others[into].jobs - chosen[out].jobs
        if abs(missing - gain) < abs(missing):
            chosen[out], others[into] = others[into], chosen[out]
            missing -= gain
    return chosen
