"""Processes as /proc shows them: who belongs to a job, what they use, and how to end them all."""

import ctypes
import os
import signal
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Set

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = float(os.sysconf("SC_CLK_TCK"))
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_SWEEPS = 40
MARK = "PENSTOCK_JOB_DIR"


class Process(NamedTuple):
    """One line of the process table; cpu in seconds (ended children that were waited for included), rss in bytes."""

    parent: int
    session: int
    state: str
    cpu: float
    rss: int


Table = Dict[int, Process]


def _load_prctl() -> Optional[Callable[..., int]]:
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None  # not Linux: the warden alone then watches over the pilot's death
    return prctl


_PRCTL = _load_prctl()


def hide_from_payloads() -> None:
    """Payloads run under the pilot's account: keep them from reading its memory and environment in /proc."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent() -> None:
    """Called in a child before exec: the kernel kills it when the thread that started it is gone."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def table() -> Table:
    """All processes that can be seen."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            process = _read(entry)
            if process is not None:
                found[int(entry)] = process
    return found


def _read(pid: str) -> Optional[Process]:
    try:
        with open("/proc/{}/stat".format(pid), "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None  # ended meanwhile
    if len(fields) < 22:
        return None
    cpu = sum(int(ticks) for ticks in fields[11:15]) / _TICK
    return Process(int(fields[1]), int(fields[3]), fields[0].decode(), cpu, int(fields[21]) * _PAGE)


def members(processes: Table, session: int) -> Set[int]:
    """The living processes of a session and all their descendants, even those that went into another session."""
    children: Dict[int, List[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    queue = [pid for pid, process in processes.items() if process.session == session]
    found: Set[int] = set()
    while queue:
        pid = queue.pop()
        if pid not in found:
            found.add(pid)
            queue.extend(children.get(pid, ()))
    return {pid for pid in found if processes[pid].state not in ("Z", "X")}


def proportional_memory(pids: Set[int]) -> Optional[int]:
    """Bytes with shared pages counted once; None where the kernel can't tell."""
    total = 0
    for pid in pids:
        try:
            with open("/proc/{}/smaps_rollup".format(pid), "rb") as stream:
                lines = [line.split() for line in stream if line.startswith(b"Pss:")]
        except (FileNotFoundError, ProcessLookupError):
            if not os.path.exists("/proc/self/smaps_rollup"):
                return None
            continue  # ended meanwhile
        except OSError:
            return None
        total += sum(int(words[1]) for words in lines) * 1024
    return total


def marked(processes: Table, folder: str) -> Set[int]:
    """Processes whose environment names the job's folder: daemons that left both session and family."""
    mark = "{}={}".format(MARK, folder).encode()
    found = set()
    for pid, process in processes.items():
        if process.state in ("Z", "X") or pid == os.getpid():
            continue
        try:
            with open("/proc/{}/environ".format(pid), "rb") as stream:
                if mark in stream.read().split(b"\0"):
                    found.add(pid)
        except OSError:
            continue  # another user's, or ended
    return found


def end_all(session: int, folder: str) -> None:
    """Kill what is left of a job until nothing is; gives up on what the kernel can't kill (a hung mount)."""
    for _ in range(_SWEEPS):
        processes = table()
        left = members(processes, session) | marked(processes, folder)
        if not left:
            return
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(0.05)


def send(pid: int, number: int) -> None:
    """Signal a process that may be gone."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
