"""The processes at both ends of a queue: one publisher, two consumers, each with its history in the run's folder."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos import history
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
STARTUP = 30.0
RECOVERY = 90.0
"""Seconds within which a publisher goes on after any fault."""


class Actors:
    """Starts them on entry and ends them on exit; they are reached by `url` and use the queue `queue` alone."""

    def __init__(self, url: str, queue: str, folder: Path) -> None:
        self._url = url
        self._queue = queue
        self._folder = folder
        self._names = count(1)
        self._consumers: list[subprocess.Popen[str]] = []
        self._publisher: subprocess.Popen[str] | None = None

    @property
    def confirmed(self) -> int:
        """How many numbers have been confirmed. AssertionError when an actor has ended by itself."""
        for process in (self._publisher, *self._consumers):
            assert process is not None
            assert process.poll() in {None, 0}, f"an actor failed:\n{self.logs()}"
        return history.count(self._folder, "confirmed")

    @property
    def attempted(self) -> int:
        """How many numbers the publisher has tried to publish, or is about to."""
        return history.count(self._folder, "attempted")

    @property
    def received(self) -> int:
        """How many deliveries consumers have noted."""
        return history.count(self._folder, "received")

    def let_publish(self, limit: int) -> None:
        """The publisher may go on until so many numbers are confirmed altogether."""
        assert self._publisher is not None
        assert self._publisher.stdin is not None
        self._publisher.stdin.write(f"{limit}\n")
        self._publisher.stdin.flush()

    def finish_publishing(self) -> None:
        """Return when the publisher has ended, all that it was told confirmed."""
        assert self._publisher is not None
        assert self._publisher.stdin is not None
        self._publisher.stdin.close()
        eventually(lambda: self.confirmed and not self._is_publishing(), within=RECOVERY)

    def kill_consumer(self, which: int) -> None:
        """kill -9 for consumer 0 or 1; another takes its place, under a name of its own, as a supervisor does it."""
        victim = self._consumers[which]
        victim.kill()
        victim.wait()
        self._consumers[which] = self._start_consumer()

    def logs(self) -> str:
        """The last lines of what each wrote."""
        paths = sorted(self._folder.glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in paths)

    def __enter__(self) -> Self:
        self._publisher = self._start("publisher", "publisher", stdin=subprocess.PIPE)
        self._consumers = [self._start_consumer() for _ in range(2)]
        eventually(lambda: len([*self._folder.glob("received-*.txt")]) == 2, within=STARTUP)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End all; those that do not obey by force."""
        processes = [process for process in (self._publisher, *self._consumers) if process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _is_publishing(self) -> bool:
        assert self._publisher is not None
        return self._publisher.poll() is None

    def _start_consumer(self) -> subprocess.Popen[str]:
        name = f"chaos-{next(self._names):02}"
        return self._start("consumer", name, name)

    def _start(
        self, module: str, log_name: str, *arguments: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"tests.chaos.{module}", self._url, self._queue, str(self._folder), *arguments]
        with (self._folder / f"{log_name}.log").open("wb") as log:
            return subprocess.Popen(command, cwd=ROOT, stdin=stdin, stdout=log, stderr=log, text=True)
