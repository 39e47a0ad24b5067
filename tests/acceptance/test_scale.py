"""`penstock scale` with a real `penstock up`: as many processes as were asked for, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.acceptance.commands import CommandLine
from tests.servers import server_folder
from tests.waiting import eventually

START = 90.0
"""Seconds that everything may take to serve on a busy machine."""


@pytest.fixture
def line() -> Iterator[CommandLine]:
    """A machine of its own; its path is short, since that of a unix socket must be."""
    with server_folder("scale") as folder:
        yield CommandLine(folder / "data")


@contextmanager
def up(line: CommandLine) -> Iterator[psutil.Process]:
    """`penstock up`, once it serves."""
    log = line.data_dir.parent / "log"
    ready = line.data_dir.parent / "ready"
    process = line.start("up", "--ready-file", str(ready), log=log)
    try:
        eventually(lambda: ready.exists() or process.poll() is not None, within=START)
        assert process.poll() is None, log.read_text()
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def serving(line: CommandLine, queue: str) -> set[int]:
    """The processes that say that they serve a queue, and live."""
    rows = json.loads(line.said("instances", "--json"))
    return {row["pid"] for row in rows if queue in row["queues"] and psutil.pid_exists(row["pid"])}


def of_its_own(line: CommandLine, queue: str) -> set[int]:
    """Those that serve nothing else."""
    rows = json.loads(line.said("instances", "--json"))
    return {row["pid"] for row in rows if row["queues"] == [queue] and psutil.pid_exists(row["pid"])}


def scaled(line: CommandLine) -> dict[str, dict[str, object]]:
    return {row["queue"]: row for row in json.loads(line.said("scale", "--json"))}


def test_a_queue_is_served_by_as_many_processes_as_were_asked_for(line: CommandLine) -> None:
    log = line.data_dir.parent / "log"
    with up(line):
        assert line.said("scale", "data", "3") == "data: 3 processes wished of `penstock up`\n"
        eventually(lambda: len(serving(line, "data")) == 3, within=START)
        assert len(serving(line, "matching")) == 1
        shown = scaled(line)
        assert (shown["data"]["processes"], shown["data"]["consumers"], shown["matching"]["processes"]) == (3, 3, 1)
        assert shown["data"]["wished_by"]

        victim = min(of_its_own(line, "data"))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(serving(line, "data") - {victim}) == 3, within=START)

        line.said("scale", "data", "2")
        eventually(lambda: len(serving(line, "data") - {victim}) == 2, within=START)
        eventually(lambda: "up       | data-3 is not wished any more" in log.read_text(), within=START)
        assert "data-3 did not end in time" not in log.read_text()
        (kept,) = of_its_own(line, "data") - {victim}
    assert not psutil.pid_exists(kept)

    with up(line):
        eventually(lambda: len(serving(line, "data")) == 2, within=START)
        line.said("scale", "data", "1")
        eventually(lambda: not of_its_own(line, "data"), within=START)
        assert len(serving(line, "data")) == 1


def test_what_cannot_be_scaled_is_refused_in_a_line(line: CommandLine, tmp_path: Path) -> None:
    line.settings["PENSTOCK_DATABASE_URL"] = f"sqlite:///{tmp_path / 'penstock.db'}"
    line.said("db", "upgrade")
    assert line.complaint("scale", "dtaa", "2").startswith("there is no queue 'dtaa'; there are data, ")
    assert "1<=x<=64" in line.complaint("scale", "data", "0")
    assert "how many?" in line.complaint("scale", "data")
    assert [row["processes"] for row in json.loads(line.said("scale", "--json"))] == [1] * 5
