"""The pilots of this machine's own batch system, which outlive the consumer that started them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

PATIENCE = 15.0
"""Seconds that pilots may take to hand their jobs back."""
LOOK = 0.05


def end_local_pilots(data_dir: Path, *, hurry: Callable[[], bool]) -> None:
    """SIGTERM for every pilot that is recorded in `data_dir` and still runs; SIGKILL for those that stay."""
    for pid in running_pilots(data_dir):
        _signal(pid, signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while (left := list(running_pilots(data_dir))) and time.monotonic() < until and not hurry():
        time.sleep(LOOK)
    for pid in left:
        _signal(pid, signal.SIGKILL)


def running_pilots(data_dir: Path) -> Iterator[int]:
    """The leaders of the process groups of pilots that run. `local-batch/QUEUE/TAG/pid` names a leader's pid and its
    start time in clock ticks, which tells it from a later process of that pid (see executors/pilots/batch/local.py).
    """
    for record in (data_dir / "local-batch").glob("*/*/pid"):
        try:
            pid, started = record.read_text().split()
        except (OSError, ValueError):
            continue  # being written just now, or gone
        if pid.isdigit() and start_time(int(pid)) == started:
            yield int(pid)


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None when there is none, or only its zombie."""
    try:
        # the name, in parentheses, may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
