"""Where a batch system's own commands run: a shell of this machine, or one on a login node (`batch.ssh`)."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from executors.pilots.batch.environment import outsiders_environment
from pipeline.errors import BatchSystemUnavailable


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    output: str
    error: str

    @property
    def words(self) -> str:
        """The last two lines of what it complained of: there these commands put the cause and what it prevents."""
        lines = [line.strip() for line in self.error.splitlines() if line.strip()]
        return "; ".join(lines[-2:]) if lines else f"exit code {self.code} without a word"


class Shell(Protocol):
    """Runs POSIX shell text."""

    def run(self, text: str, given: bytes = b"", *, seconds: float) -> Finished:
        """How `text` ended, with `given` on its standard input: secrets go there, never into `text`, which anybody on
        the machine may read. BatchSystemUnavailable when it could not be run, or took longer than `seconds`."""


class LocalShell:
    """A shell of this machine, as the user that Penstock runs as."""

    def run(self, text: str, given: bytes = b"", *, seconds: float) -> Finished:
        """As the port says."""
        return run_program(("/bin/sh", "-c", text), given, seconds=seconds)


def run_program(command: Sequence[str], given: bytes, *, seconds: float) -> Finished:
    """Run a program in a session of its own, all of which is killed when its time is over; it learns nothing of
    Penstock's settings.

    Its output goes to files, and its end is awaited, not theirs: what it leaves in the background (ssh does) may hold
    them open for long.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        try:
            process = subprocess.Popen(
                command,
                env=outsiders_environment(),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=error,
                start_new_session=True,
            )
        except OSError as failure:
            raise BatchSystemUnavailable(f"{command[0]} can't be run: {failure}") from failure
        with process:
            try:
                process.communicate(given, timeout=seconds)
            except subprocess.TimeoutExpired as late:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise BatchSystemUnavailable(f"no answer within {seconds:g} s") from late
        texts = []
        for stream in (output, error):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    return Finished(process.returncode, *texts)
