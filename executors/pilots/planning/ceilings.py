"""Nested limits of pilots: of a queue, its site, its meta-sites, its VO, and of everywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from executors.pilots.planning.roll import Roll
from pipeline.store.provisioning_rows import Cap, Place, Room
from schemas.sites import PilotCaps


@dataclass(slots=True, eq=False)
class Ceiling:
    """One limit: how many pilots may still be requested under it. Each request lowers it, whatever it counts."""

    label: str
    left: int


@dataclass(slots=True)
class _Counts:
    live: int = 0
    pending: int = 0
    held: int = 0

    def add(self, roll: Roll) -> None:
        self.live += roll.live
        self.pending += roll.in_queue
        self.held += roll.held


class Ceilings:
    """All of them, as the live pilots leave them: whatever has not ended counts, also what is to be removed."""

    def __init__(self, rooms: Iterable[Room], caps: Iterable[Cap], rolls: Mapping[Place, Roll]) -> None:
        self._rolls = rolls
        by_queue: defaultdict[int, _Counts] = defaultdict(_Counts)
        for (queue, _), roll in rolls.items():
            by_queue[queue].add(roll)
        self._queues = {
            room.site_queue_id: Ceiling("its own limits", _left(room.entry.caps, by_queue[room.site_queue_id]))
            for room in rooms
        }
        self._caps: defaultdict[int | None, list[tuple[Cap, Ceiling]]] = defaultdict(list)
        for cap in caps:
            ceiling = Ceiling(f"the limits of {cap.label}", _left(cap.limits, self._under(cap)))
            covered: Iterable[int | None] = (None,) if cap.queues is None else cap.queues
            for queue_id in covered:
                self._caps[queue_id].append((cap, ceiling))

    def queue(self, room: Room) -> Ceiling:
        """The queue's own, which all of its VOs share."""
        return self._queues[room.site_queue_id]

    def over(self, room: Room) -> tuple[Ceiling, ...]:
        """All that a pilot of this place counts in beside the queue's own."""
        found: list[Ceiling] = []
        for queue in (room.site_queue_id, None):
            found += [ceiling for cap, ceiling in self._caps.get(queue, ()) if cap.covers(room.place)]
        return tuple(found)

    def _under(self, cap: Cap) -> _Counts:
        whole = _Counts()
        for place, roll in self._rolls.items():
            if cap.covers(place):
                whole.add(roll)
        return whole


def lowest(ceilings: Iterable[Ceiling]) -> Ceiling:
    """The one that leaves the least."""
    return min(ceilings, key=lambda ceiling: ceiling.left)


_UNLIMITED = 1 << 40


def _left(limits: PilotCaps, counts: _Counts) -> int:
    if limits.max_held_pilots is not None and counts.held and counts.held >= limits.max_held_pilots:
        return 0
    leaves = [
        most - there
        for most, there in (
            (limits.max_pilots, counts.live),
            (limits.max_pending_pilots, counts.pending),
            (limits.max_submissions, 0),
        )
        if most is not None
    ]
    return max(min(leaves, default=_UNLIMITED), 0)
