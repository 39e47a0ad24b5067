"""Where the HTCondor of tests is installed, and how what runs there ends with the run.

HTCondor is not in Debian 12: unless a `condor_master` is on PATH, it is in a chroot of Debian 13, which is made once
(about a minute) and kept in `build/htcondor-pool`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.servers import find_program

CACHE = Path(__file__).parent.parent / "build" / "htcondor-pool"
RECIPE = "trixie-1"
"""Name of the chroot; another one whenever `_MAKE_CHROOT` changes."""
BUILD_TIME = 900.0

# a TMPDIR of this machine means nothing inside
_MAKE_CHROOT = """
unset TMPDIR
debootstrap --variant=minbase trixie "$1"
printf '#!/bin/sh\\nexit 101\\n' > "$1/usr/sbin/policy-rc.d"
chmod 755 "$1/usr/sbin/policy-rc.d"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
export DEBIAN_FRONTEND=noninteractive
chroot "$1" apt-get update -qq
chroot "$1" apt-get install -y -qq --no-install-recommends minicondor python3
chroot "$1" apt-get clean
"""

# Ends all that it has started when it is told to, or when whoever started it has died.
_KEEPER = """
import ctypes, os, signal, subprocess, sys, threading, psutil
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
libc = ctypes.CDLL(None)
libc.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what loses its parent is ours
libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
first = subprocess.Popen(sys.argv[2:]) if os.getppid() == int(sys.argv[1]) else None
code = None if first else 1
while code is None and not told.wait(0.05):
    while code is None and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)):
        code = ended.si_status if ended.si_pid == first.pid else None
while below := psutil.Process().children(recursive=True):
    for process in below:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(below, timeout=1)
sys.exit(code or 0)
"""


def kept(command: Sequence[str]) -> list[str]:
    """A command in a mount namespace of its own, which ends with all that it starts when this process ends."""
    return [sys.executable, "-c", _KEEPER, str(os.getpid()), "unshare", "--mount", *command]


def pool_root() -> Path:
    """Where HTCondor is installed: `/`, or a chroot that is made when it is first asked for."""
    if os.geteuid() != 0:
        raise AssertionError("a private HTCondor pool is made by root alone (it mounts); run: sudo make test")
    if shutil.which("condor_master") is not None:
        return Path("/")
    find_program(["debootstrap"], "debootstrap")
    root = CACHE / RECIPE
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _make_chroot(root)
    return root


def _make_chroot(root: Path) -> None:
    """Under another name until it is whole: what a killed run left half made is thrown away."""
    half = root.with_name(f"{root.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    done = subprocess.run(
        kept(["sh", "-ec", _MAKE_CHROOT, "sh", str(half)]),
        check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BUILD_TIME,
    )  # fmt: skip
    assert done.returncode == 0, f"no chroot with HTCondor could be made:\n{done.stdout[-4000:]}"
    half.rename(root)
