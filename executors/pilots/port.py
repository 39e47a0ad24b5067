"""The batch system port: four calls, all in bulk, all by tag, so that a crashed submission is found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from executors.pilots.installed import load
from executors.pilots.program import PilotProgram
from schemas.sites import SiteQueueEntry


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
    """One pilot to be submitted. `secret` reaches it by no command line."""

    tag: str
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Submission:
    """A tag that was taken. `handle` is the batch system's own name for it; `ends_at`: when the delegated proxy that
    it runs with ends, None where nothing but the wall time bounds it."""

    handle: str
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What a batch system knows of one tag. `reason` says why it is held or has failed."""

    handle: str
    state: BatchState
    exit_code: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PilotOutput:
    """The ends of a pilot's standard output and error."""

    stdout: str
    stderr: str


OUTPUT_LIMIT = 64 * 1024
"""Bytes of each stream that `fetch_output` brings at the most: the last ones."""


class BatchSystem(Protocol):
    """One queue of a batch system. Every call may raise BatchSystemUnavailable, and no other error of its own.

    Nothing is remembered between calls: whatever is known of a tag is asked for by the tag. A call gives up, with
    BatchSystemUnavailable, when the server does not answer within `options.timeout` seconds (default 30).
    """

    def submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Mapping[str, Submission]:
        """Submit pilots, in as few submissions as the system allows; what was taken, by tag.

        A tag that it knows already is not started again: one that is held is released, one that has ended stays so.
        Tags that it refuses (a limit of its own, say) are left out, as long as it takes any; when it takes none, it is
        unavailable, with its own words.
        """

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        """What it knows of these tags, those that it does not know left out. Never a part of the truth: a query that
        fails or is cut off raises."""

    def remove(self, tags: Sequence[str]) -> None:
        """End these pilots in whatever state, and forget those that have ended, output included; one that it does not
        know is fine."""

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        """What these pilots wrote so far, those that it does not know left out."""


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What opens a queue of a batch system: `label` is `SITE.queue`, `entry` what the sites file says of it."""

    label: str
    entry: SiteQueueEntry
    data_dir: Path


Opener = Callable[[QueueSettings], BatchSystem]
"""Opens a queue without asking its server anything. Raises BadSettings for options that make no sense."""


def open_batch_system(queue: QueueSettings) -> BatchSystem:
    """The batch system of an entry point of `penstock.batch_systems`. Raises BadSettings for an unknown kind."""
    kind, where = queue.entry.batch_system, f"queue {queue.label}"
    opener: Opener = load("penstock.batch_systems", kind, what="batch system", where=where)
    return opener(queue)
