"""What the worker node has: measured once, stated at enrolment."""

import os
import platform
import re
import shutil
from typing import Any, Dict, FrozenSet, NamedTuple, Optional, Sequence

from pipeline.pilot.gpus import Gpus
from pipeline.pilot.probe import PATIENCE, ask, content

MIB = 1 << 20
_LEVELS = (
    ("x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Totals(NamedTuple):
    """What the pilot may hand out: cores, memory and disk in MiB, GPUs."""

    cores: int
    memory: int
    disk: int
    gpus: int = 0


def measure(workdir: str, gpus: Gpus) -> Totals:
    """What this process may use: cores by affinity, memory by the machine and its control group, free disk."""
    disk = shutil.disk_usage(workdir).free // MIB
    return Totals(len(os.sched_getaffinity(0)), max(_memory() // MIB, 1), disk, len(gpus.devices))


def describe(host: str, totals: Totals, gpus: Gpus, runtimes: Sequence[str] = ()) -> Dict[str, Any]:
    """The `Node` of the enrolment; `runtimes` are those of containers that work."""
    return {
        "host": host,
        "cores": totals.cores,
        "memory": totals.memory,
        "disk": totals.disk,
        "system": _system(),
        "glibc": _glibc(),
        "microarchitecture": _microarchitecture(),
        "gpus": totals.gpus,
        "containers": list(runtimes),
        "python": platform.python_version(),
        "details": _details(gpus, runtimes),
    }


def in_older_words(described: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The same without its newest words; None when there are none: release 0.3.0 knows no `details.containers`, and
    0.2.0 no `details`."""
    details = described.get("details")
    if details is None:
        return None
    older = {name: value for name, value in details.items() if name != "containers"}
    rest = {name: value for name, value in described.items() if name != "details"}
    return {**rest, "details": older} if "containers" in details else rest


def user_namespaces(proc: str = "/proc", patience: float = PATIENCE) -> bool:
    """Whether a process without privileges may make a user namespace with a mapping, as containers need it.

    Tried, where there is a tool to try it with: security modules forbid what the kernel's settings allow.
    """
    most = content(os.path.join(proc, "sys/user/max_user_namespaces")).strip()
    allowed = content(os.path.join(proc, "sys/kernel/unprivileged_userns_clone")).strip()
    if not most.isdigit() or int(most) == 0 or allowed == "0":
        return False
    return not shutil.which("unshare") or ask("unshare", "--user", "--map-root-user", "true", patience=patience) == ""


def microarchitecture_level(flags: FrozenSet[str]) -> str:
    """The highest x86-64 psABI level whose processor flags are all there."""
    level = "x86-64-v1"
    for name, wanted in _LEVELS:
        if not flags.issuperset(wanted.split()):
            break
        level = name
    return level


def _details(gpus: Gpus, runtimes: Sequence[str]) -> Dict[str, Any]:
    """In the words of requirements; what is not known is left out, and satisfies no wish."""
    known = {
        "system_name": platform.system(),
        "machine": platform.machine(),
        "level": _level(),
        "gpu": gpus.describe() if gpus.devices else None,
        "containers": list(runtimes),
    }
    return {"user_namespaces": user_namespaces(), **{name: value for name, value in known.items() if value}}


def _microarchitecture() -> str:
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    found = re.search(r"^flags\s*:\s*(.*)$", content("/proc/cpuinfo"), re.MULTILINE)
    return microarchitecture_level(frozenset(found.group(1).split() if found else ()))


def _level() -> Optional[int]:
    found = re.match(r"x86-64-v(\d)$", _microarchitecture())
    return int(found.group(1)) if found else None


def _memory() -> int:
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [int(text) for text in (content(path).strip() for path in _MEMORY_LIMITS) if text.isdigit()]
    return min(limits)


def _system() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', content("/etc/os-release"), re.MULTILINE)
    return found.group(1) if found else platform.platform()


def _glibc() -> str:
    try:
        words = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (OSError, ValueError):
        return ""  # another C library
    return words[-1] if words else ""
