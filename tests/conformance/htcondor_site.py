"""An HTCondor pool as a site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from executors.pilots.port import BatchSystem
from tests.htcondor import HtcondorPool

FEW = 5


class HtcondorSite:
    """Its schedd starts nothing while the site is full, and takes a few more jobs than it has."""

    kind = "htcondor"

    def __init__(self, pool: HtcondorPool, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.notes = pool.new_folder()
        self.options: Mapping[str, object] = {**pool.options, "grace": 1}
        self._pool = pool

    def down(self) -> None:
        """No schedd."""
        self._pool.schedd_down()

    def up(self) -> None:
        """The schedd is back."""
        self._pool.schedd_up()

    def hold(self, system: BatchSystem, tag: str) -> None:
        """By the administrator."""
        self._pool.ask("condor_hold", system.poll([tag])[tag].handle)

    def fill(self, *, full: bool) -> None:
        """A limit of the jobs in its queue, and one of those that run."""
        there = len(self._pool.ask("condor_q", "-all", "-af", "ClusterId").split())
        self._pool.configure(**({"MAX_JOBS_SUBMITTED": there + FEW, "MAX_JOBS_RUNNING": 0} if full else {}))
