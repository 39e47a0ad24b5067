"""`penstock scale` with a real `penstock up`: as many processes as were asked for, whatever happens to them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from pipeline.store.database import Database
from pipeline.store.instances import list_instances
from tests.acceptance.system import System, penstock_up
from tests.waiting import eventually

PATIENCE = 90.0
"""Seconds that a process may take to begin, or to end, on a busy machine."""


def serving(system: System, queue: str) -> set[int]:
    """The live processes that say that they serve this queue and no other."""
    database = Database(f"sqlite:///{system.data_dir / 'penstock.db'}")
    rows = database.read(list_instances)
    database.close()
    return {row.pid for row in rows if row.queues == (queue,) and psutil.pid_exists(row.pid)}


def scaled(system: System) -> dict[str, tuple[int, int]]:
    """How many processes were asked for, and how many serve, by queue."""
    return {row["queue"]: (row["processes"], row["consumers"]) for row in system.json("scale")}


def test_a_queue_is_served_by_as_many_processes_as_were_asked_for(tmp_path: Path) -> None:
    with penstock_up(tmp_path) as system:
        assert system.run("scale", "data", "3") == "data: 3 processes wished of `penstock up`\n"
        eventually(lambda: len(serving(system, "data")) == 2, within=PATIENCE)
        alone = dict.fromkeys(("matching", "optimisation", "pilots", "upkeep"), (1, 1))
        assert scaled(system) == {"data": (3, 3), **alone}

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
