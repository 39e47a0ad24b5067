"""What one owner has for one slot.

Three queues over the owner's piles: wide jobs that wait too long, jobs that wait far too long, and all by rank. The
first two overtake priority, but what they take must be made good before they may again: otherwise priority would mean
nothing in a backlog of days, where everything has waited too long. Wide ones get half of what an owner gets at the
most, old ones a quarter, if others of that owner want it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from heapq import heapify, heappop, heapreplace
from math import inf
from typing import Any

from executors.matching.allowance import Allowance
from executors.matching.board import Desk, Entry, Pile
from executors.matching.eligibility import NO, YES, Verdicts
from executors.matching.terms import Rules
from pipeline.store.match_rows import Place
from schemas.requirements import grant
from schemas.rooms import Grant, Room
from schemas.specifications import Needs


class Lane(Enum):
    """Why a job is next; the value is what it may take of each core-second that others of its owner get."""

    WIDE = 1.0
    OLD = 1 / 3
    RANK = 0.0


@dataclass(slots=True)
class Opening:
    """A slot while it is being filled."""

    place: Place
    free: Room
    time_left: float
    verdicts: Verdicts
    allowance: Allowance
    now: float
    rules: Rules
    is_unlimited: bool
    narrowest: int = 0
    """Cores that a job must need at the least, while the slot is kept for a wide one."""

    def has_room(self, needs: Needs) -> bool:
        """Whether so much is free; a quick look before `granted`, which is exact."""
        free = self.free
        return (
            self.narrowest <= needs.min_cores <= free.cores
            and needs.wall_time <= self.time_left
            and needs.overhead + needs.per_core * needs.min_cores <= free.memory
            and needs.disk <= free.disk
            and needs.min_gpus <= free.gpus
        )

    def granted(self, entry: Entry, room: Room | None = None) -> Grant | None:
        """What a job of the entry gets of what is free, or of `room`."""
        power = self.place.resource.power
        return grant(entry.wish.specification, self.free if room is None else room, self.time_left, power)

    def suits(self, entry: Entry) -> bool:
        """Whether nothing but room and time is against it."""
        return not entry.is_gone and self.verdicts.allow(entry.wish) and self.is_allowed(entry)

    def is_allowed(self, entry: Entry) -> bool:
        """Whether test mode, limits and start rates leave it a place."""
        if self.place.only_job_type not in (None, entry.level.job_type):
            return False
        return self.is_unlimited or self.allowance.left(entry.level, self.place) > 0


@dataclass(frozen=True, slots=True)
class Pick:
    """What is next, and what it gets; nothing where it must wait until more of the node is free."""

    lane: Lane
    entry: Entry
    grant: Grant | None
    rival_id: int | None = None
    """The oldest job of what comes next by rank, where that is as urgent and as wide."""


class Choice:
    """One owner's queues for one slot."""

    def __init__(self, desk: Desk, opening: Opening) -> None:
        self._desk = desk
        self._opening = opening
        piles = list(desk.at(opening.place.resource.site))
        self._queues = {lane: _Queue(lane, piles, opening) for lane in Lane}

    def pick(self) -> Pick | None:
        """The best that is left for the slot; None when there is nothing."""
        for lane, queue in self._queues.items():
            if queue.is_empty() or self._desk.debts.get(lane.name, 0.0) > 0:
                continue
            pick = queue.pick()
            if pick is not None:
                return pick
        return None

    def decline(self, pick: Pick) -> None:
        """What would have to wait for the slot shall not."""
        self._queues[pick.lane].discard()


class _Queue:
    """The piles of one lane, each by the first of its levels that may run here, worked out only as it comes to it.

    Room only shrinks while a slot is filled, so a pile that does not fit is not looked at again.
    """

    def __init__(self, lane: Lane, piles: Iterable[Pile], opening: Opening) -> None:
        self._lane = lane
        self._opening = opening
        waits = {Lane.WIDE: opening.rules.wide_patience, Lane.OLD: opening.rules.longest_wait}
        self._since = opening.now - waits[lane] if lane in waits else inf
        self._heap: list[tuple[Any, int, Pile, Entry | None]] = [
            (self._key(pile, self._items(pile)[0][0]), index, pile, None)
            for index, pile in enumerate(piles)
            if self._concerns(pile)
        ]
        heapify(self._heap)

    def is_empty(self) -> bool:
        return not self._heap

    def discard(self) -> None:
        heappop(self._heap)

    def pick(self) -> Pick | None:
        opening = self._opening
        while self._heap:
            _, index, pile, entry = self._heap[0]
            if entry is None or entry.is_gone or not opening.is_allowed(entry):
                self._look(index, pile)
                continue
            grant = opening.granted(entry) if opening.has_room(pile.needs) else None
            if grant is not None:
                return Pick(self._lane, entry, grant, self._rival_id(pile, entry))
            if self._lane is Lane.WIDE:
                return Pick(self._lane, entry, None)
            heappop(self._heap)
        return None

    def _look(self, index: int, pile: Pile) -> None:
        """Put the first of the topmost pile in its place."""
        found = self._first(pile)
        if found is None:
            heappop(self._heap)
        else:
            heapreplace(self._heap, (self._key(pile, found[0]), index, pile, found[1]))

    def _first(self, pile: Pile) -> tuple[Any, Entry] | None:
        verdicts, is_open = self._opening.verdicts, self._opening.is_unlimited and not self._opening.place.only_job_type
        known = verdicts.known
        for key, entry in self._items(pile):
            verdict = known[entry.wish.ordinal]
            if verdict == NO:
                continue
            if self._lane is not Lane.RANK:
                if key[0] > self._since:
                    return None
                if self._lane is Lane.WIDE and entry.width == 1:
                    continue
            if (verdict == YES or verdicts.allow(entry.wish)) and (is_open or self._opening.is_allowed(entry)):
                return key, entry
        return None

    def _items(self, pile: Pile) -> list[Any]:
        return pile.by_rank if self._lane is Lane.RANK else pile.by_age

    def _key(self, pile: Pile, key: Any) -> Any:
        return (-pile.needs.min_cores, *key) if self._lane is Lane.WIDE else key

    def _concerns(self, pile: Pile) -> bool:
        items = self._items(pile)
        if not items or (self._lane is not Lane.RANK and items[0][0][0] > self._since):
            return False
        if self._lane is Lane.WIDE:
            return pile.needs.min_cores > 1 and pile.needs.wall_time <= self._opening.time_left
        return self._opening.has_room(pile.needs)

    def _rival_id(self, pile: Pile, entry: Entry) -> int | None:
        """Where several levels are equally urgent, age decides between their jobs, not only between their oldest."""
        if self._lane is not Lane.RANK:
            return None
        mine = entry.rank()
        after = bisect_right(pile.by_rank, mine, key=_first_of)
        keys = [item[0] for item in self._heap[1:3]] + [item[0] for item in pile.by_rank[after : after + 1]]
        rivals = [key[2] for key in keys if key[:2] == mine[:2]]
        return min(rivals, default=None)


def _first_of(item: tuple[Any, Entry]) -> Any:
    return item[0]
