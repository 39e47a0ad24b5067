"""Processes of a benchmark and the CPU that each takes, its children's included."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PATIENCE = 60.0
_SESSION, _OWN, _CHILDREN = 3, slice(11, 13), slice(13, 15)
"""Fields of /proc/PID/stat after the name, as proc(5) numbers them less 3: session; utime and stime, own and
those of children that were waited for."""


@dataclass(frozen=True, slots=True)
class Program:
    """One of ours, started as the leader of a session of its own, by which its children are found."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def cpu(self) -> float:
        """Seconds that it and its descendants have used, those that have ended among them."""
        found = [_stat(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        mine = [words for words in found if words and int(words[_SESSION]) == self.process.pid]
        return sum(_ticks(words, _OWN) + _ticks(words, _CHILDREN) for words in mine) / _TICK

    def line(self) -> str:
        """The next line of its output; AssertionError when it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended with {self.process.wait(_PATIENCE)}:\n{self.log.read_text()[-4000:]}"
        return line

    def stop(self) -> None:
        """End it in an orderly way."""
        self.process.terminate()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@dataclass(frozen=True, slots=True)
class Command:
    """A Python module with its arguments and its environment."""

    name: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def running(commands: Iterable[Command], logs: Path) -> Iterator[list[Program]]:
    """All of them, until the block ends; each writes its errors to NAME.log in `logs`."""
    with ExitStack() as stack:
        programs = []
        for command in commands:
            path = logs / f"{command.name}.log"
            log = stack.enter_context(path.open("a"))
            process = subprocess.Popen(
                [sys.executable, "-m", *command.arguments],
                env=os.environ | command.variables, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
            programs.append(Program(command.name, process, path))
            stack.callback(programs[-1].stop)
        yield programs


def cpu_of(pid: int) -> float:
    """Seconds of CPU that one process has used."""
    return _ticks(_stat(Path("/proc") / str(pid)), _OWN) / _TICK


def _stat(folder: Path) -> list[str]:
    """The fields after the name, which may hold anything; none for a process that has just ended."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _ticks(words: Sequence[str], which: slice) -> int:
    return sum(int(word) for word in words[which])
