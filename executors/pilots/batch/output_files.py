"""What a pilot wrote into files of this machine."""

from __future__ import annotations

from pathlib import Path

from executors.pilots.port import OUTPUT_LIMIT, PilotOutput
from pipeline.pilot.archive import last_bytes


def read_output(stdout: Path, stderr: Path) -> PilotOutput:
    """The ends of both; nothing of one that isn't there."""
    ends = (last_bytes(str(file), OUTPUT_LIMIT).decode(errors="replace") for file in (stdout, stderr))
    return PilotOutput(*ends)
