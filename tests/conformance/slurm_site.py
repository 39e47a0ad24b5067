"""Slurm as a site, on this machine or behind a login node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from executors.pilots.port import BatchSystem
from tests.slurm import SlurmServer
from tests.sshd import SshServer


class SlurmSite:
    """Its partition, closed while the site is full."""

    kind = "slurm"

    def __init__(self, server: SlurmServer, folder: Path, login: SshServer | None = None) -> None:
        self.data_dir = folder / "data"
        self.notes = folder / "notes"
        self.notes.mkdir()
        self._server = server
        here = {"conf": str(server.conf), "folder": str(folder / "output")}
        self.options: Mapping[str, object] = {
            "partition": "main",
            **(here if login is None else {"ssh": login.options}),
        }

    def down(self) -> None:
        """No controller."""
        self._server.down()

    def up(self) -> None:
        """The controller is back."""
        self._server.up()

    def hold(self, system: BatchSystem, tag: str) -> None:
        """By its user: as scontrol does it for whoever runs it."""
        self._server.run("scontrol", "hold", system.poll([tag])[tag].handle)

    def fill(self, *, full: bool) -> None:
        """Jobs are taken, and wait."""
        self._server.run("scontrol", "update", "PartitionName=main", f"State={'DOWN' if full else 'UP'}")
