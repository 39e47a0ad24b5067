"""What one run of `penstock` knows: kept tiny, since even `penstock --help` pays for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.settings import Settings


@dataclass(slots=True)
class Session:
    """The options of `penstock` itself, and the settings once a command asked for them."""

    debug: bool = False
    settings: Settings | None = None
    process: str | None = None
    """The kind of process that the command is, for the log; None for commands that end by themselves."""
