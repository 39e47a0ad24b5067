"""A scripted API, the real pilot file, and pilots that are started from it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.pilot_archive import build
from tests.integration.pilot.scripted_api import SECRET, ScriptedApi, serving

Pilot = subprocess.Popen[bytes]
StartPilot = Callable[..., Pilot]
INTERPRETER = os.environ.get("PENSTOCK_TEST_PILOT_PYTHON", sys.executable)


@pytest.fixture(scope="session")
def pilot_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pilot"))


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with serving(ScriptedApi()) as scripted:
        yield scripted


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / "work"


@contextmanager
def ended_at_last() -> Iterator[list[Pilot]]:
    """A list of processes: those that are in it at the end are killed."""
    started: list[Pilot] = []
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture
def start_pilot(pilot_file: Path, api: ScriptedApi, workdir: Path, tmp_path: Path) -> Iterator[StartPilot]:
    """Starts a pilot of 4 cores and 2000 MiB in `workdir`; its log is `pilot.log`."""

    def start(*options: str, **variables: str) -> Pilot:
        command = [INTERPRETER, str(pilot_file), "--api-url", api.url, "--tag", "tag-1", "--workdir", str(workdir)]
        command += ["--cores", "4", "--memory", "2000", "--disk", "1000", *options]
        environment = {**os.environ, "PENSTOCK_PILOT_SECRET": SECRET, **variables}
        with (tmp_path / "pilot.log").open("ab") as log:
            started.append(subprocess.Popen(command, env=environment, stderr=log, stdout=log))
        return started[-1]

    with ended_at_last() as started:
        yield start
