"""Which parked slots could take the jobs of which there is news: as many as those jobs can fill, and no others.

Thousands of slots may be parked and thousands of autoclusters may ask. What a kind of node may run is asked once per
kind, and what has room once per size of what is free, rounded up; only what that leaves is compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from executors.matching.allowance import Allowance
from executors.matching.board import Board, Entry
from executors.matching.terms import Slot
from pipeline.store.match_rows import Level, Place
from schemas.requirements import grant
from schemas.rooms import Room, rounded_up

_Kind = tuple[int, int, str | None]
"""Number of the resource, VO, only type of jobs: slots that these do not tell apart may run the same jobs."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Jobs that a slot was found for."""

    level: Level
    place: Place
    jobs: int


class Search:
    """What is still to be found for the news; `wanted` are waiting jobs by autocluster."""

    def __init__(self, board: Board, allowance: Allowance, wanted: Mapping[int, int]) -> None:
        self._board = board
        self._allowance = allowance
        self._asking = tuple(wanted)
        self._left = {autocluster_id: jobs for autocluster_id, jobs in wanted.items() if jobs > 0}
        self._entries: dict[_Kind, list[Entry]] = {}
        self._roomy: dict[tuple[_Kind, Room, int], list[Entry]] = {}

    def is_over(self) -> bool:
        """Whether room was found for all."""
        return not self._left

    def suits(self, place: Place) -> bool:
        """Whether any of it may run there, room and time aside."""
        return bool(self._of_kind(_kind(place), place))

    def taker(self, slot: Slot) -> Taker | None:
        """What could go to the slot, which is counted on from now on; None: nothing that is still to be found."""
        if slot.free.cores <= 0:
            return None
        place, power = slot.place, slot.place.resource.power
        for entry in self._believed(slot):
            level = entry.level
            left = self._left.get(level.autocluster_id, 0)
            if not left or place.reserved_for not in (None, level.autocluster_id):
                continue
            most = min(left, self._allowance.left(level, place))
            granted = grant(entry.wish.specification, slot.free, slot.time_left, power) if most > 0 else None
            if granted is not None:
                found = Taker(level, place, min(most, slot.free.times(granted)))
                self._count(found, found.jobs)
                return found
        return None

    def give_back(self, takers: Iterable[Taker]) -> None:
        """The slots found for these are not to be had."""
        for taker in takers:
            self._count(taker, -taker.jobs)

    def _count(self, taker: Taker, jobs: int) -> None:
        autocluster_id = taker.level.autocluster_id
        self._left[autocluster_id] = self._left.get(autocluster_id, 0) - jobs
        if self._left[autocluster_id] <= 0:
            del self._left[autocluster_id]
        self._allowance.spend(taker.level, taker.place, jobs)

    def _believed(self, slot: Slot) -> list[Entry]:
        place = slot.place
        kind = _kind(place)
        room, time_left = slot.free.coarse(), rounded_up(max(ceil(slot.time_left), 0))
        found = self._roomy.get((kind, room, time_left))
        if found is None:
            power = place.resource.power
            found = self._roomy[kind, room, time_left] = [
                entry
                for entry in self._of_kind(kind, place)
                if grant(entry.wish.specification, room, time_left, power) is not None
            ]
        return found

    def _of_kind(self, kind: _Kind, place: Place) -> list[Entry]:
        found = self._entries.get(kind)
        if found is None:
            verdicts = self._board.eligibility.verdicts(place.resource_key, place.resource)
            found = self._entries[kind] = [
                entry
                for autocluster_id in self._asking
                for entry in self._board.entries(autocluster_id)
                if entry.level.vo_id == place.vo_id
                and place.only_job_type in (None, entry.level.job_type)
                and verdicts.allow(entry.wish)
            ]
        return found


def _kind(place: Place) -> _Kind:
    return place.resource_key, place.vo_id, place.only_job_type
