"""A real batch system for tests: what the conformance suite asks of each, and how tests of batch systems ask it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from executors.pilots.port import (
    BatchAnswer,
    BatchState,
    BatchSystem,
    PilotRequest,
    QueueSettings,
    open_batch_system,
)
from executors.pilots.program import PilotProgram
from schemas.sites import SiteQueueEntry
from tests.waiting import eventually

PATIENCE = 60.0
"""Seconds that a batch system may take to start or end pilots."""
Tags = Callable[[int], list[str]]
"""Makes so many."""
_numbers = count(1)


class BatchSite(Protocol):
    """A running server with one queue, and what only its administrator can do to it."""

    kind: str
    """The entry point of `penstock.batch_systems`."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The queue's options in the sites file, as they are to be now."""

    data_dir: Path
    notes: Path
    """A folder where its pilots may write, under the same path here as on its nodes."""

    def down(self) -> None:
        """Stop the server: calls must raise BatchSystemUnavailable. What it holds is kept."""

    def up(self) -> None:
        """Start it again, and wait until it answers."""

    def hold(self, system: BatchSystem, tag: str) -> None:
        """Have a queued or running pilot held, as the system does it itself or its administrator would."""

    def fill(self, *, full: bool) -> None:
        """`full`: nothing more starts to run, so that what is submitted stays queued; or no more than a few pilots are
        taken. Else as usual: what waits is started. The suite opens its queue again after this."""


def open_queue(site: BatchSite, **options: object) -> BatchSystem:
    """The site's queue as a site queue of ours."""
    return open_kind(site.kind, {**site.options, **options}, site.data_dir)


def open_kind(kind: str, options: Mapping[str, object], data_dir: Path, **entry: object) -> BatchSystem:
    """A queue of a kind of batch system, for small pilots; `entry` is what else the sites file says of it."""
    given = {"name": "queue", "batch_system": kind, "options": options, "memory": 64, "disk": 64, **entry}
    return open_batch_system(QueueSettings("SITE.queue", SiteQueueEntry.model_validate(given), data_dir))


def shell(text: str) -> PilotProgram:
    """A pilot that runs a shell script."""
    return PilotProgram({"program.sh": text.encode()}, ("/bin/sh", "program.sh"))


def requests(tags: Sequence[str]) -> list[PilotRequest]:
    """One for each tag."""
    return [PilotRequest(tag, f"secret-of-{tag}") for tag in tags]


def new_tags(many: int) -> list[str]:
    """Tags that no other test of this process has, in order."""
    return [f"{next(_numbers):032x}" for _ in range(many)]


@contextmanager
def own_tags(site: BatchSite) -> Iterator[Tags]:
    """Makes new tags; their pilots are removed in the end."""
    made: list[str] = []

    def new(many: int) -> list[str]:
        mine = new_tags(many)
        made.extend(mine)
        return mine

    yield new
    open_queue(site).remove(made)


def answered(
    system: BatchSystem, tags: Sequence[str], states: Collection[BatchState], *, within: float = PATIENCE
) -> Mapping[str, BatchAnswer]:
    """The answers, once all of these pilots are in one of these states."""

    def check() -> Mapping[str, BatchAnswer]:
        answers = system.poll(tags)
        return answers if len(answers) == len(tags) and all(a.state in states for a in answers.values()) else {}

    return eventually(check, within=within, every=0.2)
