"""What a running payload uses, and whether that is more than it was given."""

import os
import time
from typing import NamedTuple, Optional, Tuple

from pipeline.pilot import processes

MIB = 1 << 20


class Limits(NamedTuple):
    """wall_time in seconds, memory and disk in MiB."""

    wall_time: int
    memory: int
    disk: int


class Usage(NamedTuple):
    """Times in seconds; memory (resident now) and disk in MiB."""

    wall_time: float
    cpu_time: float
    memory: int
    disk: int


def breach(limits: Limits, usage: Usage) -> Optional[str]:
    """The first limit that is exceeded, in words for the job's owner."""
    if usage.wall_time > limits.wall_time:
        return "wall-time limit: ran {:.0f} s of {} s".format(usage.wall_time, limits.wall_time)
    if usage.memory > limits.memory:
        return "memory limit: used {} MiB of {} MiB".format(usage.memory, limits.memory)
    if usage.disk > limits.disk:
        return "disk limit: used {} MiB of {} MiB".format(usage.disk, limits.disk)
    return None


class Gauge:
    """Reads the usage of one payload: its session of processes, its folders."""

    def __init__(self, session: int, folders: Tuple[str, ...], memory_limit: int) -> None:
        self._session = session
        self._folders = folders
        self._memory_limit = memory_limit
        self._began = time.monotonic()
        self._disk = 0
        self._disk_due = 0.0

    def wall_time(self) -> float:
        """Seconds since the payload started."""
        return time.monotonic() - self._began

    def read(self, table: processes.Table) -> Usage:
        """The present usage, from a fresh process table."""
        pids = processes.members(table, self._session)
        cpu_time = sum(table[pid].cpu for pid in pids)
        memory = sum(table[pid].rss for pid in pids)
        if memory > self._memory_limit * MIB and len(pids) > 1:
            # summed resident memory counts shared pages once per process: ask the dearer, fairer figure before a kill
            memory = processes.proportional_memory(pids) or memory
        return Usage(self.wall_time(), cpu_time, _whole_mib(memory), self._read_disk())

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
