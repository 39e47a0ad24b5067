"""The live pilots of each place, called once: a plan looks at thousands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.store.provisioning_rows import LivePilot, Place
from schemas.states import PilotState

# compared by identity: hashing a member of an enumeration is slow
_RUNNING, _DRAINING, _LOST = PilotState.RUNNING, PilotState.DRAINING, PilotState.LOST
_HELD = PilotState.HELD


@dataclass(slots=True, eq=False)
class Roll:
    """The pilots of one place. Whatever has not ended is counted; those that leave are in no list."""

    live: int = 0
    in_queue: int = 0
    """Pending ones."""
    held: int = 0
    busy: list[LivePilot] = field(default_factory=list)
    idle: list[LivePilot] = field(default_factory=list)
    pending: list[LivePilot] = field(default_factory=list)

    @property
    def began(self) -> int:
        """How many of them have begun to run."""
        return self.live - self.in_queue


def call(pilots: Iterable[LivePilot]) -> dict[Place, Roll]:
    """Each pilot in the roll of its place."""
    found: dict[Place, Roll] = {}
    for pilot in pilots:
        place = pilot.site_queue_id, pilot.vo_id
        roll = found.get(place)
        if roll is None:
            roll = found[place] = Roll()
        roll.live += 1
        state = pilot.state
        if state is _RUNNING:
            if not pilot.leaves:
                (roll.busy if pilot.jobs else roll.idle).append(pilot)
        elif state is not _DRAINING and state is not _LOST:
            roll.in_queue += 1
            roll.held += state is _HELD
            if not pilot.leaves:
                roll.pending.append(pilot)
    return found
