"""Payloads as the test's own eyes see them."""

from __future__ import annotations

from pathlib import Path

from tests.waiting import eventually


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def running_pid(path: Path) -> int:
    """The process id that a payload writes to `path`, as soon as it is there."""
    return eventually(lambda: path.exists() and int(path.read_text() or 0))
