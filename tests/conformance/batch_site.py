"""A real batch system for tests: what the conformance suite asks of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from executors.pilots.port import BatchSystem, PilotRequest, QueueSettings, open_batch_system
from executors.pilots.program import PilotProgram
from schemas.sites import SiteQueueEntry


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
    entry = SiteQueueEntry.model_validate(
        {"name": "queue", "batch_system": site.kind, "options": {**site.options, **options}, "memory": 64, "disk": 64}
    )
    return open_batch_system(QueueSettings("SITE.queue", entry, site.data_dir))


def shell(text: str) -> PilotProgram:
    """A pilot that runs a shell script."""
    return PilotProgram({"program.sh": text.encode()}, ("/bin/sh", "program.sh"))


def requests(tags: Sequence[str]) -> list[PilotRequest]:
    """One for each tag."""
    return [PilotRequest(tag, f"secret-of-{tag}") for tag in tags]
