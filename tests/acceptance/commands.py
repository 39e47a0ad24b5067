"""Running `penstock` as a subprocess, as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds that a command may take on a busy machine."""


@dataclass(slots=True)
class CommandLine:
    """A user's environment: a data directory and settings, and none of the tester's own."""

    data_dir: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What processes are started with."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        return kept | {"PENSTOCK_DATA_DIR": str(self.data_dir), "PENSTOCK_API_PORT": "0"} | self.settings

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A finished command, whatever its exit code; `stdin` is its standard input."""
        return subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False, input=stdin,
        )  # fmt: skip

    def said(self, *arguments: str, stdin: str | None = None) -> str:
        """The standard output of a command that must succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def complaint(self, *arguments: str, code: int = 2, stdin: str | None = None) -> str:
        """The one line that a refused command says, without its `penstock: `."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("penstock: ")
        assert done.stdout == ""
        return lines[0].removeprefix("penstock: ")

    def refusal(self, *arguments: str) -> dict[str, Any]:
        """The one line in the log of a process that does not start."""
        done = self.run(*arguments)
        assert done.returncode == 2, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        (line,) = done.stderr.splitlines()
        assert done.stdout == ""
        said: dict[str, Any] = json.loads(line)
        assert (said["message"], said["log.level"]) == ("process_refused", "error")
        return said

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """A process that goes on running; the caller ends it."""
        with log.open("wb") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", *arguments], env=self.environment, stdout=stream, stderr=stream
            )
