"""Processes as /proc shows them: who descends from whom, what they use, and how to end them all."""

import ctypes
import os
import signal
import time
from typing import AbstractSet, Callable, Dict, List, NamedTuple, Optional, Set

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = float(os.sysconf("SC_CLK_TCK"))
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_LONGEST_PAUSE = 0.05


class Process(NamedTuple):
    """One line of the process table; cpu in seconds (ended children that were waited for included), rss in bytes."""

    parent: int
    group: int
    state: str
    cpu: float
    rss: int


Table = Dict[int, Process]


def _load_prctl() -> Optional[Callable[..., int]]:
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None  # not Linux
    return prctl


_PRCTL = _load_prctl()


def _prctl(option: int, value: int) -> None:
    if _PRCTL is not None:
        _PRCTL(option, value, 0, 0, 0)


def hide_from_payloads() -> None:
    """Payloads run under the pilot's account: keep them from reading its memory and environment in /proc."""
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """Called in a child before exec: the kernel kills it when the thread that started it is gone."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """What descends from this process stays its descendant, whatever it does to leave: daemons become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def wake_at_ends() -> int:
    """A descriptor that can be read from whenever a child of this process has ended, or a signal has come."""
    woken, waker = os.pipe()
    for descriptor in (woken, waker):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return woken


def reap(ended: Callable[[int, int], object]) -> bool:
    """Tell each child that has ended with its status, as wait does; whether there are children still."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        ended(pid, status)


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
    return Process(int(fields[1]), int(fields[2]), fields[0].decode(), cpu, int(fields[21]) * _PAGE)


def descendants(processes: Table, ancestor: int, spared: AbstractSet[int] = frozenset()) -> Set[int]:
    """The living processes that descend from `ancestor`, but for those `spared` and what descends from them."""
    children: Dict[int, List[int]] = {}
    for pid, process in processes.items():
        if pid not in spared:
            children.setdefault(process.parent, []).append(pid)
    queue = list(children.get(ancestor, ()))
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


def end_descendants(is_any_left: Callable[[], bool], patience: float, spared: AbstractSet[int] = frozenset()) -> bool:
    """Kill all that descends from this process, which leads a session of its own, until `is_any_left` denies.

    False when something is left after `patience` seconds: what the kernel can't kill (a hung mount).
    """
    until = time.monotonic() + patience
    known: Set[int] = set()
    pause = 0.0
    while is_any_left():
        if time.monotonic() > until:
            return False
        left = _kill_descendants(spared)
        # no pause while there are new ones: whoever forks faster than this sleeps would never end
        pause = min(pause + 0.005, _LONGEST_PAUSE) if left <= known else 0.0
        known |= left
        time.sleep(pause)
    return True


def end_at_home(home: str) -> None:
    """Kill the processes whose environment says that this is their HOME: daemons that left our family on purpose."""
    mark = "HOME={}".format(home).encode()
    for pid in table():
        try:
            with open("/proc/{}/environ".format(pid), "rb") as stream:
                is_ours = mark in stream.read().split(b"\0")
        except OSError:
            continue  # another user's, or ended
        if is_ours:
            _kill(pid)


def _kill_descendants(spared: AbstractSet[int]) -> Set[int]:
    """Whole process groups first: against that signal no fork is quick enough."""
    processes = table()
    left = descendants(processes, os.getpid(), spared)
    for group in {processes[pid].group for pid in left} - {os.getpgrp()}:
        _kill_group(group)
    for pid in left:
        _kill(pid)
    return left


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
