"""`make demo`, as a user runs it: the result is right, it is quick, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
HEARING = ("env", "--default-signal=INT")
"""Shells let what they run in the background ignore Ctrl-C, and tests may run there."""
LIMIT = 120.0
"""Seconds; the demonstration promises 60 on an idle machine, a test machine is not one."""


@contextmanager
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demonstration in the background, its data below `tmp_path`."""
    process = subprocess.Popen(
        [*HEARING, sys.executable, ROOT / "examples" / "zmumu" / "demo.py", "--to", tmp_path / "result"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=LIMIT)
        assert process.stdout is not None
        process.stdout.close()


def processes_about(folder: Path) -> list[str]:
    """Every process that names `folder` in its command line or its environment, or works in it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(" ".join(process.cmdline()))
    return found


def test_the_demonstration_finds_the_z_boson_and_leaves_nothing_behind(tmp_path: Path) -> None:
    started = time.monotonic()
    with demo(tmp_path) as process:
        output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output
    assert "10583 events, peak [90, 91) GeV, median 90.28 GeV" in output
    assert time.monotonic() - started < LIMIT
    assert json.loads((tmp_path / "result" / "zmumu.json").read_text())["events"] == 10_583
    assert (tmp_path / "result" / "zmumu.png").read_bytes().startswith(b"\x89PNG")
    assert processes_about(tmp_path) == []
    assert list(tmp_path.glob("penstock-demo-*")) == []


def test_ctrl_c_in_the_middle_of_the_campaign_ends_every_process(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        eventually(lambda: list(tmp_path.glob("penstock-demo-*/storage/**/histogram-*.json")), within=LIMIT)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, output
    assert processes_about(tmp_path) == []
