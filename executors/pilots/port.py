"""The batch system port: four calls, all in bulk, all by tag, so that a crashed submission is found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import BadSettings


class BatchState(StrEnum):
    """What a batch system says of a pilot."""

    QUEUED = "queued"
    HELD = "held"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


BATCH_ENDED = frozenset({BatchState.DONE, BatchState.FAILED})


@dataclass(frozen=True, slots=True)
class PilotRequest:
    """One pilot to be submitted. `arguments` go to the pilot program; `secret` reaches it by no command line."""

    tag: str
    arguments: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What a batch system knows of one tag. `handle` is its own name for it."""

    handle: str
    state: BatchState
    exit_code: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PilotOutput:
    """The ends of a pilot's standard output and error."""

    stdout: str
    stderr: str


class BatchSystem(Protocol):
    """One queue of a batch system. Every call may raise BatchSystemUnavailable, and no other error of its own."""

    def submit(self, requests: Sequence[PilotRequest]) -> Mapping[str, str]:
        """Submit pilots; the handle of each tag that was taken. A tag that it knows already is not started again."""

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        """What it knows of these tags, those that it does not know left out."""

    def remove(self, tags: Sequence[str]) -> None:
        """End these pilots in whatever state; one that has ended, or that it does not know, is fine."""

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        """What these pilots wrote so far, those that it does not know left out."""


Opener = Callable[[str, Mapping[str, Any], Path], BatchSystem]
"""Opens a queue from its label (`site.queue`), its `options` in the sites file and the data directory."""


def open_batch_system(kind: str, label: str, options: Mapping[str, Any], data_dir: Path) -> BatchSystem:
    """The batch system of an entry point of `penstock.batch_systems`. Raises BadSettings for an unknown kind."""
    found = {entry.name: entry for entry in entry_points(group="penstock.batch_systems")}
    if kind not in found:
        raise BadSettings(f"queue {label}: no batch system {kind!r} is installed; there are {', '.join(sorted(found))}")
    opener: Opener = found[kind].load()
    return opener(label, options, data_dir)
