"""The site of the conformance suite that is an ARC compute element."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from executors.pilots.port import BatchSystem
from tests.arex import QUEUE, ArexServer


class ArcSite:
    """A-REX gives its users no way to hold a job or to release one. Its administrator suspends it in the batch system
    behind, and lets it go on when he opens the queue again."""

    kind = "arc"

    def __init__(self, server: ArexServer, folder: Path) -> None:
        self._server = server
        self._held: list[str] = []
        self.data_dir = folder
        self.notes = Path(mkdtemp(dir=server.folder, prefix="notes-"))
        self.notes.chmod(0o1777)

    @property
    def options(self) -> Mapping[str, Any]:
        """The queue's options."""
        return {
            "url": self._server.url,
            "queue": QUEUE,
            "proxy_file": str(self._server.proxy_file),
            "ca_dir": str(self._server.ca_dir),
        }

    def down(self) -> None:
        """Kill it; jobs run on."""
        self._server.stop()

    def up(self) -> None:
        """Start it again."""
        self._server.start()

    def hold(self, system: BatchSystem, tag: str) -> None:
        """Suspend it where it waits or runs, once it has got there."""
        job_id = system.poll([tag])[tag].handle
        self._server.suspend(job_id)
        self._held.append(job_id)

    def fill(self, *, full: bool) -> None:
        """Close the batch system's queue, or open it and let go what is suspended."""
        self._server.fill(full=full)
        while not full and self._held:
            self._server.resume(self._held.pop())
