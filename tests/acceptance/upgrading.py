"""What an upgrade is tried on: every process by itself, of a release each, and a load that goes on meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx

from pipeline.client import Client
from pipeline.errors import PenstockError
from schemas.api import CampaignQuery, JobQuery, JobSelection
from schemas.campaign import Campaign
from tests.previous_release import Release
from tests.waiting import eventually

START = 120.0
"""Seconds that a process may take to its readiness on the busiest machine."""
STOP = 45.0
"""Seconds that a process may take to its end: its drain deadline and some."""


@dataclass(slots=True)
class Process:
    """One of the processes, whichever release it is of at the moment."""

    name: str
    words: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.running is not None, f"{self.name} does not run"
        return self.running.pid


@dataclass(slots=True)
class Plant:
    """All of them, in a folder with their logs."""

    folder: Path
    variables: Mapping[str, str]
    processes: list[Process] = field(default_factory=list)

    def run(self, release: Release, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of a release, which must go well."""
        done = subprocess.run(
            release.command(*words), cwd=release.folder, env=self._environment(release, {}),
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done

    def rows(self, release: Release) -> list[dict[str, Any]]:
        """What `penstock instances` of a release lists."""
        found: list[dict[str, Any]] = json.loads(self.run(release, "instances", "--json").stdout)
        return found

    def start(self, process: Process, release: Release) -> None:
        """Start it, as one of a release, without waiting for it."""
        with (self.folder / f"{process.name}.log").open("ab") as log:
            process.running = subprocess.Popen(
                release.command(*process.words), cwd=release.folder,
                env=self._environment(release, process.variables), stdout=log, stderr=log,
            )  # fmt: skip

    def replace(self, process: Process, release: Release) -> None:
        """SIGTERM, start, ready: as an orchestrator goes about it that has no room for one more."""
        assert process.running is not None
        process.running.terminate()
        assert process.running.wait(STOP) == 0, self.log_of(process)
        self.start(process, release)
        self.wait_for(process)

    def wait_for(self, process: Process) -> None:
        """Until it says that it is ready."""
        eventually(lambda: self._is_ready(process), within=START)

    def log_of(self, process: Process) -> str:
        """The end of what it has said."""
        return (self.folder / f"{process.name}.log").read_text()[-4000:]

    def said(self, level: str) -> list[str]:
        """What any process has logged at a level."""
        logs = [path.read_text().splitlines() for path in self.folder.glob("*.log")]
        return [line for lines in logs for line in lines if f'"log.level": "{level}"' in line]

    def end(self) -> None:
        """All of them, in an orderly way if they can."""
        left = [process.running for process in self.processes if process.running is not None]
        for process in left:
            process.terminate()
        for process in left:
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _is_ready(self, process: Process) -> bool:
        assert process.running is not None
        assert process.running.poll() is None, self.log_of(process)
        port = process.variables.get("PENSTOCK_API_PORT") or process.variables["PENSTOCK_HEALTH_PORT"]
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def _environment(self, release: Release, variables: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        kept["PENSTOCK_PILOT_CONTAINERS"] = "none"
        return kept | dict(release.variables) | dict(self.variables) | dict(variables)


class Load:
    """What people do: so many jobs each second, and questions and retries in between: what the client repeats.

    Who waits for an answer catches up afterwards. Commands that are not repeated (pause, cancel, bans, tokens) are none
    of it: they say themselves that nobody knows whether they arrived.
    """

    def __init__(self, url: str, token: str, step: Mapping[str, Any], *, each: float = 1.0) -> None:
        self.submitted: list[int] = []
        """The campaigns that were submitted."""
        self.due = 0
        """How many were to be submitted since it began."""
        self.requests = 0
        self.given_up: list[str] = []
        """The requests that the client gave up."""
        self._client = Client(url, token)
        self._step = step
        self._each = each
        self._ended = Event()
        self._thread = Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Submit no more."""
        self._ended.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a request has hung for a minute"
        self._client.close()

    def _run(self) -> None:
        begun = due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due += self._each
            self._act()
        self.due = int((time.monotonic() - begun) / self._each)

    def _act(self) -> None:
        campaign = Campaign.model_validate({"campaign": "load", "steps": [self._step]})
        acts = (
            lambda: self.submitted.append(self._client.submit(campaign).campaign_id),
            lambda: self._client.campaigns(CampaignQuery(limit=5)),
            lambda: self._client.jobs(JobQuery(limit=5)),
            lambda: self._client.retry(JobSelection(campaign_id=self.submitted[-1])),
        )
        for act in acts:
            self.requests += 1
            try:
                act()
            except PenstockError as error:
                self.given_up.append(str(error))


@contextmanager
def under(load: Load) -> Iterator[None]:
    """The load goes on for as long as the block lasts."""
    load.start()
    try:
        yield
    finally:
        load.stop()
