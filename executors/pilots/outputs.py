"""What pilots wrote, fetched from their batch system in bulk and kept beside the sandboxes."""

from __future__ import annotations

from collections.abc import Sequence

from executors.pilots.port import BatchSystem
from pipeline.sandboxes import Sandboxes
from pipeline.settings import Settings
from pipeline.store.queue_pilots import BatchPilot
from schemas.states import PilotState

MOST_DONE = 20
"""Pilots that ended well whose output one round keeps: it is seldom read, and there are thousands of them."""


def collect(settings: Settings, system: BatchSystem, wanted: Sequence[BatchPilot]) -> list[int]:
    """Fetch and keep the outputs of these pilots, but not of all that ended well; the ids of those that are kept.

    Raises BatchSystemUnavailable, StorageUnavailable.
    """
    dull = [pilot for pilot in wanted if pilot.state is PilotState.DONE][MOST_DONE:]
    skipped = {pilot.id for pilot in dull}
    by_tag = {pilot.tag: pilot for pilot in wanted if pilot.id not in skipped}
    sandboxes = Sandboxes(settings.resolved_sandbox_url())
    kept = []
    for tag, output in system.fetch_output(list(by_tag)).items():
        pilot = by_tag[tag]
        sandboxes.put_pilot_output(pilot.vo, pilot.id, output.stdout, output.stderr)
        kept.append(pilot.id)
    return kept
