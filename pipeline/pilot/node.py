"""What the worker node has: measured once, stated at enrolment."""

import os
import platform
import re
import shutil
import socket
import subprocess
from typing import Any, Dict, FrozenSet, NamedTuple, Optional, Tuple

MIB = 1 << 20
_RUNTIMES = ("apptainer", "singularity", "podman")
_LEVELS = (
    ("x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Totals(NamedTuple):
    """What the pilot may hand out: cores, and memory and disk in MiB."""

    cores: int
    memory: int
    disk: int


def measure(workdir: str) -> Totals:
    """What this process may use: cores by affinity, memory by the machine and its control group, free disk."""
    return Totals(len(os.sched_getaffinity(0)), max(_memory() // MIB, 1), shutil.disk_usage(workdir).free // MIB)


def describe(totals: Totals) -> Dict[str, Any]:
    """The `Node` of the enrolment."""
    return {
        "host": socket.gethostname(),
        "cores": totals.cores,
        "memory": totals.memory,
        "disk": totals.disk,
        "system": _system(),
        "glibc": _glibc(),
        "microarchitecture": _microarchitecture(),
        "gpus": _gpus(),
        "containers": [name for name in _RUNTIMES if shutil.which(name)],
        "python": platform.python_version(),
    }


def microarchitecture_level(flags: FrozenSet[str]) -> str:
    """The highest x86-64 psABI level whose processor flags are all there."""
    level = "x86-64-v1"
    for name, wanted in _LEVELS:
        if not flags.issuperset(wanted.split()):
            break
        level = name
    return level


def _microarchitecture() -> str:
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    found = re.search(r"^flags\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return microarchitecture_level(frozenset(found.group(1).split() if found else ()))


def _memory() -> int:
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [int(text) for text in (_read(path).strip() for path in _MEMORY_LIMITS) if text.isdigit()]
    return min(limits)


def _system() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    return found.group(1) if found else platform.platform()


def _glibc() -> str:
    try:
        words = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (OSError, ValueError):
        return ""  # another C library
    return words[-1] if words else ""


def _gpus() -> int:
    if not shutil.which("nvidia-smi"):
        return 0
    listing = _run(("nvidia-smi", "-L"))
    return len(re.findall(r"^GPU \d+:", listing or "", re.MULTILINE))


def _run(command: Tuple[str, ...]) -> Optional[str]:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, universal_newlines=True, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
