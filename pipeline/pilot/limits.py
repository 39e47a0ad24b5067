"""What a running payload uses, whether that is more than it was given, and how soon to look again."""

import os
import time
from typing import NamedTuple, Optional, Set, Tuple

from pipeline.pilot import cgroups, processes

MIB = 1 << 20
SLOW, QUICK = 1.0, 0.1
"""Seconds between two looks: at what is calm, and at what could reach a limit within a few seconds."""
_AHEAD = 3.0
_TASKS, _TASKS_PER_CORE = 1000, 100


class Limits(NamedTuple):
    """wall_time in seconds, memory and disk in MiB, tasks: processes (and threads, where a control group counts)."""

    wall_time: float
    memory: int
    disk: int
    tasks: int


class Usage(NamedTuple):
    """Times in seconds; memory (resident now) and disk in MiB."""

    wall_time: float
    cpu_time: float
    memory: int
    disk: int
    tasks: int


class Breach(NamedTuple):
    """A limit that was exceeded: in one word for machines, in a sentence for the job's owner."""

    minor: str
    reason: str


def most_tasks(cores: int) -> int:
    """How many processes a job may have: far more than any that works, far fewer than a node can bear."""
    return _TASKS + _TASKS_PER_CORE * cores


def breach(limits: Limits, usage: Usage) -> Optional[Breach]:
    """The first limit that is exceeded."""
    if usage.wall_time > limits.wall_time:
        ran = "wall-time limit: ran {:.0f} s of {:g} s".format(usage.wall_time, limits.wall_time)
        return Breach("wall_time_limit", ran)
    if usage.memory > limits.memory:
        return Breach("memory_limit", "memory limit: used {} MiB of {} MiB".format(usage.memory, limits.memory))
    if usage.disk > limits.disk:
        return Breach("disk_limit", "disk limit: used {} MiB of {} MiB".format(usage.disk, limits.disk))
    if usage.tasks > limits.tasks:
        return Breach("process_limit", "process limit: had {} processes, may have {}".format(usage.tasks, limits.tasks))
    return None


def pause(limits: Limits, before: Usage, now: Usage) -> float:
    """Seconds until the next look: fewer when something grows so fast that it could be over a limit soon."""
    passed = max(now.wall_time - before.wall_time, 1e-3)
    for name in ("memory", "disk", "tasks"):
        growth = (getattr(now, name) - getattr(before, name)) / passed
        if getattr(now, name) + growth * _AHEAD > getattr(limits, name):
            return QUICK
    return min(SLOW, max(limits.wall_time - now.wall_time, QUICK / 10))


class Gauge:
    """Reads the usage of one payload: what descends from its guardian or is in its control group, and its folders.

    Make it before the payload starts, its time counts from then; `guardian` is set when there is one.
    """

    def __init__(self, folders: Tuple[str, ...], limits: Limits, group: str, nest: cgroups.Nest) -> None:
        self.guardian = 0
        self._folders = folders
        self._limits = limits
        self._group = group
        self._keeps_memory = nest.keeps("memory", group)
        self._began = time.monotonic()
        self._disk = 0
        self._disk_due = 0.0

    def wall_time(self) -> float:
        """Seconds since the payload started."""
        return time.monotonic() - self._began

    def read(self, table: processes.Table) -> Usage:
        """The present usage, from a fresh process table."""
        pids = processes.descendants(table, self.guardian)
        pids.update(pid for pid in cgroups.members(self._group) if pid in table)
        cpu_time = cgroups.cpu_time(self._group) or sum(table[pid].cpu for pid in pids)
        tasks = cgroups.tasks(self._group) + cgroups.forks_refused(self._group) or len(pids)
        return Usage(self.wall_time(), cpu_time, self._read_memory(table, pids), self._read_disk(), tasks)

    def disk(self) -> int:
        """MiB on disk at this moment."""
        self._disk_due = 0.0
        return self._read_disk()

    def _read_memory(self, table: processes.Table, pids: Set[int]) -> int:
        memory = sum(table[pid].rss for pid in pids)
        limit = self._limits.memory
        if self._keeps_memory:
            return min(_whole_mib(memory), limit)
        if memory > limit * MIB and len(pids) > 1:
            # summed resident memory counts shared pages once per process: ask the dearer, fairer figure before a kill
            memory = processes.proportional_memory(pids) or memory
        return _whole_mib(memory)

    def _read_disk(self) -> int:
        """MiB on disk; a folder that takes long to walk is walked less often."""
        began = time.monotonic()
        if began >= self._disk_due:
            self._disk = _whole_mib(sum(_allocated(folder) for folder in self._folders))
            now = time.monotonic()
            self._disk_due = now + 20 * (now - began)
        return self._disk


def _whole_mib(size: int) -> int:
    return -(-size // MIB)


def _allocated(folder: str) -> int:
    """Bytes that the files below `folder` occupy; what vanishes meanwhile counts nothing."""
    total = 0
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total
