"""`penstock scale` with a real `penstock up`: as many processes as were asked for, whatever happens to them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from tests.acceptance.commands import CommandLine
from tests.acceptance.system import System, penstock_up
from tests.waiting import eventually

PATIENCE = 90.0
"""Seconds that a process may take to begin, or to end, on a busy machine."""


def serving(system: System, *queues: str) -> set[int]:
    """The live processes that say that they serve these queues and no others."""
    rows = system.json("instances")
    return {row["pid"] for row in rows if tuple(row["queues"]) == queues and psutil.pid_exists(row["pid"])}


def scaled(system: System, queue: str) -> tuple[int, int]:
    """How many processes were asked for, and how many serve the queue."""
    (row,) = [row for row in system.json("scale") if row["queue"] == queue]
    return row["processes"], row["consumers"]


def test_a_queue_is_served_by_as_many_processes_as_were_asked_for(tmp_path: Path) -> None:
    with penstock_up(tmp_path) as system:
        assert system.run("scale", "data", "3") == "data: 3 processes wished of `penstock up`\n"
        eventually(lambda: len(serving(system, "data")) == 2, within=PATIENCE)
        assert (scaled(system, "data"), scaled(system, "matching")) == ((3, 3), (1, 1))

        victim = min(serving(system, "data"))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(serving(system, "data") - {victim}) == 2, within=PATIENCE)

        system.run("scale", "data", "2")
        eventually(lambda: len(serving(system, "data")) == 1, within=PATIENCE)
        log = (tmp_path / "up-0.log").read_text()
        assert "data-3 is not wished any more" in log
        assert "data-3 did not end in time" not in log
        (kept,) = serving(system, "data")
    assert not psutil.pid_exists(kept)

    with penstock_up(tmp_path) as system:
        eventually(lambda: len(serving(system, "data")) == 1, within=PATIENCE)
        system.run("scale", "data", "1")
        eventually(lambda: not serving(system, "data"), within=PATIENCE)
        assert scaled(system, "data")[0] == 1


def test_what_cannot_be_scaled_is_refused_in_a_line(tmp_path: Path) -> None:
    line = CommandLine(tmp_path)
    line.said("db", "upgrade")
    assert line.complaint("scale", "dtaa", "2").startswith("there is no queue 'dtaa'; there are data, ")
    assert "1<=x<=64" in line.complaint("scale", "data", "0")
    assert "how many?" in line.complaint("scale", "data")
