"""This machine as a site."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from executors.pilots.port import BatchState, BatchSystem
from tests.waiting import eventually

FEW = 5


class LocalSite:
    """Pilots are processes here; a full site takes a few."""

    kind = "local"

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.notes = folder / "notes"
        self.notes.mkdir()
        self._root = self.data_dir / "local-batch"
        self._options: dict[str, object] = {"grace": 1.0}

    @property
    def options(self) -> Mapping[str, object]:
        """As they are now."""
        return self._options

    def down(self) -> None:
        """Its folders are not what they were."""
        self._root.rename(self.data_dir / "away")
        self._root.touch()

    def up(self) -> None:
        """They are back."""
        self._root.unlink()
        (self.data_dir / "away").rename(self._root)

    def hold(self, system: BatchSystem, tag: str) -> None:
        """Stopped by somebody, once it runs."""
        eventually(lambda: system.poll([tag])[tag].state is BatchState.RUNNING)
        pid = (self._root / "SITE.queue" / tag / "pid").read_text().split()[0]
        os.killpg(int(pid), signal.SIGSTOP)

    def fill(self, *, full: bool) -> None:
        """The limit of pilots that may live."""
        self._options = {"grace": 1.0, **({"max_running": FEW} if full else {})}
