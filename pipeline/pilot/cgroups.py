"""Control groups, version 2, for jobs: limits that the kernel keeps, and an end that nothing escapes.

Used where the pilot may: below its own group, when that was delegated to it or the pilot is root. Elsewhere a group is
"" and every function does nothing: then limits are kept by looking (see limits.py) and guardians end what descends
from them (see guardian.py). A unified and a hybrid hierarchy are the same to us: the v2 mount counts, with whatever
controllers it has.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Tuple

from pipeline.pilot.probe import content

_WANTED = ("cpu", "memory", "pids")
_PILOT = "pilot"
_MIB = 1 << 20
_MOMENT = 0.01
_DEFAULT_WEIGHT, _MOST_WEIGHT = 100, 10_000


class Limits(NamedTuple):
    """What a job's group may use: MiB, processes and threads, cores (a share, where they are short)."""

    memory: int
    tasks: int
    cores: int


class Nest(NamedTuple):
    """The group `folder` below `home`, the pilot's own; each job has one in it.

    `controllers`: those that work for jobs. `enabled`: those of them that were switched on in `home` for that, for
    which its processes had to go into a group of their own.
    """

    home: str = ""
    folder: str = ""
    controllers: FrozenSet[str] = frozenset()
    enabled: Tuple[str, ...] = ()

    def group(self, name: str, limits: Limits) -> str:
        """A new group for a job; "" where there can be none."""
        if not self.folder:
            return ""
        group = os.path.join(self.folder, name)
        try:
            os.mkdir(group)
            if "memory" in self.controllers:
                _write(group, "memory.max", limits.memory * _MIB)
                _write(group, "memory.oom.group", 1)
            if "pids" in self.controllers:
                _write(group, "pids.max", limits.tasks)
        except OSError:
            remove(group)
            return ""
        with suppress(OSError):  # there may be no swap, or no accounting of it
            _write(group, "memory.swap.max", 0)
        if "cpu" in self.controllers:
            with suppress(OSError):
                _write(group, "cpu.weight", min(limits.cores * _DEFAULT_WEIGHT, _MOST_WEIGHT))
        return group

    def keeps(self, controller: str, group: str) -> bool:
        """Whether the kernel keeps the limit of this controller for that group."""
        return bool(group) and controller in self.controllers

    def leave(self) -> None:
        """Put everything back as it was found; called when no job runs any more, by a process of the pilot."""
        if not self.folder:
            return
        pilot = os.path.join(self.folder, _PILOT)
        for group in _children(self.folder):
            if group != pilot:
                end(group, 1.0)
        for controller in self.controllers:
            _switch(self.folder, "-", controller)
        for controller in self.enabled:
            _switch(self.home, "-", controller)
        _move(pilot, self.home)
        remove(self.folder)


NONE = Nest()


def find(proc: str = "/proc/self") -> str:
    """The folder of this process's own group in the v2 hierarchy; "" where there is none."""
    own = [line[3:] for line in content(os.path.join(proc, "cgroup")).splitlines() if line.startswith("0::/")]
    if not own or ".." in own[0].split("/"):
        return ""
    for line in content(os.path.join(proc, "mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if after.split()[:1] == ["cgroup2"] and len(fields) > 4:
            root, mount = fields[3], fields[4]
            if root == "/" or own[0] == root or own[0].startswith(root + "/"):
                return os.path.normpath(mount + "/" + own[0][len(root.rstrip("/")) :])
    return ""


def settle(home: str, name: str) -> Nest:
    """A nest below `home` called `name`; NONE where none can be made."""
    if not home:
        return NONE
    folder = os.path.join(home, name)
    pilot = os.path.join(folder, _PILOT)
    try:
        os.mkdir(folder)
        os.mkdir(pilot)
    except OSError:
        remove(folder)
        return NONE
    there = [name for name in _WANTED if name in content(os.path.join(home, "cgroup.controllers")).split()]
    passed_on = content(os.path.join(home, "cgroup.subtree_control")).split()
    missing = [name for name in there if name not in passed_on]
    enabled: List[str] = []
    if missing and (_is_root(home) or _is_ours(home)):
        # a group that passes controllers on may have no processes of its own, unless it is the root of all
        if not _is_root(home):
            _move(home, pilot)
        enabled = [name for name in missing if _switch(home, "+", name)]
        if not enabled:
            _move(pilot, home)
    usable = [name for name in there if name in passed_on or name in enabled]
    return Nest(home, folder, frozenset(name for name in usable if _switch(folder, "+", name)), tuple(enabled))


def join(group: str) -> None:
    """Move this process, and so what it becomes and starts, into a group. Raises OSError."""
    if group:
        _write(group, "cgroup.procs", os.getpid())


def kill(group: str) -> None:
    """SIGKILL for all that is in a group, at once: against this no fork is quick enough."""
    if not group:
        return
    try:
        _write(group, "cgroup.kill", 1)
    except OSError:  # before Linux 5.14: what is frozen can't fork
        with suppress(OSError):
            _write(group, "cgroup.freeze", 1)
        for pid in members(group):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(OSError):
            _write(group, "cgroup.freeze", 0)


def remove(group: str) -> None:
    """Remove an empty group with those that were made in it."""
    if group:
        for child in _children(group):
            remove(child)
        with suppress(OSError):
            os.rmdir(group)


def end(group: str, patience: float) -> None:
    """Kill what is in a group, and remove it, which takes a moment; given up after so many seconds."""
    until = time.monotonic() + patience
    while group and os.path.isdir(group):
        kill(group)
        remove(group)
        if time.monotonic() > until:
            return
        time.sleep(_MOMENT)


def members(group: str) -> List[int]:
    """The processes in a group and in those that were made in it."""
    if not group:
        return []
    found = [int(pid) for pid in _lines(group, "cgroup.procs")]
    for child in _children(group):
        found += members(child)
    return found


def tasks(group: str) -> int:
    """Processes and threads in a group; 0 where nobody counts them."""
    return _number(group, "pids.current")


def memory_peak(group: str) -> int:
    """The most bytes that it had; 0 where nobody remembers (before Linux 5.19)."""
    return _number(group, "memory.peak")


def cpu_time(group: str) -> float:
    """Seconds of all that ever was in a group; 0 where nobody counts them."""
    return _figures(group, "cpu.stat").get("usage_usec", 0) / 1e6


def oom_kills(group: str) -> int:
    """How many processes of a group the kernel has killed since it wanted more memory than its limit."""
    return _figures(group, "memory.events").get("oom_kill", 0)


def forks_refused(group: str) -> int:
    """How often it had too many processes and threads for another one."""
    return _figures(group, "pids.events").get("max", 0)


def _is_root(group: str) -> bool:
    return not os.path.exists(os.path.join(group, "cgroup.type"))


def _is_ours(group: str) -> bool:
    """Whether all that it holds is of the pilot's own session: others' processes are not to be moved about."""
    with suppress(OSError):
        return all(os.getsid(int(pid)) == os.getsid(0) for pid in _lines(group, "cgroup.procs"))
    return False


def _number(group: str, name: str) -> int:
    text = content(os.path.join(group, name)).strip() if group else ""
    return int(text) if text.isdigit() else 0


def _figures(group: str, name: str) -> Dict[str, int]:
    lines = content(os.path.join(group, name)).splitlines() if group else []
    pairs: Iterable[List[str]] = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _lines(group: str, name: str) -> List[str]:
    return content(os.path.join(group, name)).split()


def _switch(folder: str, sign: str, controller: str) -> bool:
    try:
        _write(folder, "cgroup.subtree_control", sign + controller)
    except OSError:
        return False
    return True


def _move(source: str, target: str) -> None:
    """All processes that may be moved; one that ends meanwhile needs no moving."""
    for word in _lines(source, "cgroup.procs"):
        with suppress(OSError):
            _write(target, "cgroup.procs", word)


def _write(group: str, name: str, value: object) -> None:
    with open(os.path.join(group, name), "w", encoding="ascii") as stream:
        stream.write(str(value))


def _children(group: str) -> List[str]:
    try:
        with os.scandir(group) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
