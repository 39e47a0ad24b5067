"""Pilot commands that are none of ours: shell scripts that never enrol."""

from __future__ import annotations

import shlex

from executors.pilots.program import PilotProgram
from pipeline.settings import Settings
from schemas.sites import SiteQueueEntry


def sleeping(_settings: Settings, _entry: SiteQueueEntry) -> PilotProgram:
    """Ten minutes long."""
    return _shell("exec sleep 600")


def noting(_settings: Settings, entry: SiteQueueEntry) -> PilotProgram:
    """Ten minutes long; each start is a line of the file `notes`, an option of the queue."""
    return _shell(f'echo "$PENSTOCK_PILOT_TAG" >> {shlex.quote(entry.options["notes"])}; exec sleep 600')


def failing(_settings: Settings, _entry: SiteQueueEntry) -> PilotProgram:
    """At once, with exit code 3."""
    return _shell("echo it is broken >&2; exit 3")


def _shell(text: str) -> PilotProgram:
    return PilotProgram({"program.sh": text.encode()}, ("/bin/sh", "program.sh"))
