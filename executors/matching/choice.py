"""What one owner has for one slot.

Three queues over the owner's piles: wide jobs that wait too long, jobs that wait far too long, and all by rank. The
first two overtake priority, but what they take must be made good before they may again: otherwise priority would mean
nothing in a backlog of days, where everything has waited too long. Wide ones get half of what an owner gets at the
most, old ones a quarter, if others of that owner want it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from executors.matching.allowance import Allowance
from executors.matching.board import Desk, Entry, Ordered, Pile
from executors.matching.eligibility import NO, YES, Verdicts
from executors.matching.rooms import Shape
from executors.matching.terms import Rules
from pipeline.store.match_rows import Place
from schemas.requirements import grant
from schemas.rooms import Grant, Room


class Lane(Enum):
    """Why a job is next; the value is what it may take of each core-second that others of its owner get."""

    WIDE = 1.0
    OLD = 1 / 3
    RANK = 0.0


@dataclass(slots=True)
class Opening:
    """A slot while it is being filled: its room only shrinks."""

    place: Place
    free: Room
    time_left: float
    verdicts: Verdicts
    allowance: Allowance
    now: float
    rules: Rules
    narrowest: int = 0
    """Cores that a job must need at the least, while the slot is kept for a wide one."""
    is_open: bool = field(init=False)
    """Whether neither limits nor test mode have a say here."""
    _too_large: set[Shape] = field(init=False, default_factory=set)
    """Shapes that there is no room for."""

    def __post_init__(self) -> None:
        self.is_open = self.place.only_job_type is None and self.allowance.is_free(self.place.site_id)

    def has_room(self, shape: Shape) -> bool:
        """Whether there may be room for jobs of a shape; `granted` is exact."""
        if shape in self._too_large:
            return False
        if self.narrowest <= shape.cores and shape.may_fit(self.free, self.time_left):
            return True
        self._too_large.add(shape)
        return False

    def granted(self, entry: Entry, room: Room | None = None) -> Grant | None:
        """What a job of the entry gets of what is free, or of `room`."""
        if entry.wish.needs.min_cores < self.narrowest:
            return None
        power = self.place.resource.power
        return grant(entry.wish.specification, self.free if room is None else room, self.time_left, power)

    def suits(self, entry: Entry) -> bool:
        """Whether nothing is against it but room and time, and that no more may start at this moment."""
        return not entry.is_gone and self.verdicts.allow(entry.wish) and self.is_allowed(entry, but_starts=True)

    def is_allowed(self, entry: Entry, *, but_starts: bool = False) -> bool:
        """Whether test mode, limits and, unless it does not matter, start rates leave it a place."""
        if self.is_open:
            return True
        if self.place.only_job_type not in (None, entry.level.job_type):
            return False
        if but_starts:
            return self.allowance.is_below_limits(entry.level, self.place)
        return self.allowance.left(entry.level, self.place) > 0


@dataclass(frozen=True, slots=True)
class Pick:
    """What is next, and what it gets; nothing where it must wait until more of the node is free."""

    lane: Lane
    entry: Entry
    grant: Grant | None
    rival_id: int | None = None
    """The oldest job of what comes next by rank, where that is as urgent and as wide."""


_Found = tuple[Any, Entry, Grant | None]
"""The first of a pile that may run here, by its key, and what it is granted."""


class Choice:
    """One owner's jobs for one slot. Piles are looked into only as far as it takes to know the best."""

    def __init__(self, desk: Desk, opening: Opening) -> None:
        self._opening = opening
        self._debts = desk.debts
        self._pools = desk.at(opening.place.resource.site)
        self._ranked: dict[Pile, _Found] = {}
        self._declined: set[Shape] = set()
        self._wide_since = opening.now - opening.rules.wide_patience
        self._old_since = opening.now - opening.rules.longest_wait

    def pick(self) -> Pick | None:
        """The best that is left for the slot; None when there is nothing."""
        owes = self._debts.get(Lane.WIDE.name, 0.0) > 0
        pick = None if owes else self._widest()
        if pick is None and self._debts.get(Lane.OLD.name, 0.0) <= 0:
            pick = self._oldest()
        pick = pick or self._best()
        # Nobody is overtaken where nothing else of the owner's fits: it would owe for good, and starve.
        return self._widest() if pick is None and owes else pick

    def decline(self, pick: Pick) -> None:
        """What would have to wait for the slot shall not."""
        self._declined.add(pick.entry.wish.shape)

    def _widest(self) -> Pick | None:
        """Of the wide that wait too long: the widest, then the oldest, even where it has to wait for room."""
        best: _Found | None = None
        for pool in self._pools:
            for age, pile in pool.wide_by_age:
                if age[0] > self._wide_since:
                    break
                width = pile.shape.cores
                if pile.shape in self._declined or (best is not None and (-width, age) > best[0]):
                    continue
                found = self._first(pile.by_age, Lane.WIDE)
                if found is not None and (best is None or (-width, found[0]) < best[0]):
                    best = (-width, found[0]), *found[1:]
        return None if best is None else Pick(Lane.WIDE, best[1], best[2])

    def _oldest(self) -> Pick | None:
        """Of those that wait far too long: the oldest for which there is room."""
        best: _Found | None = None
        for pool in self._pools:
            for age, pile in pool.by_age:
                if age[0] > self._old_since or (best is not None and age > best[0]):
                    break
                if not self._opening.has_room(pile.shape):
                    continue
                found = self._first(pile.by_age, Lane.OLD)
                if found is not None and (best is None or found[0] < best[0]):
                    best = found
        return None if best is None else Pick(Lane.OLD, best[1], best[2])

    def _best(self) -> Pick | None:
        """By rank. What comes next after it is known as well, or at least how early it might come."""
        best: _Found | None = None
        best_pile: Pile | None = None
        rivals: list[Any] = []
        for pool in self._pools:
            for rank, pile in pool.by_rank:
                if best is not None and rank > best[0]:
                    rivals.append(rank)
                    break
                found = self._first_ranked(pile) if self._opening.has_room(pile.shape) else None
                if found is None:
                    continue
                rivals.append(found[0])
                if best is None or found[0] < best[0]:
                    best, best_pile = found, pile
        if best is None or best_pile is None:
            return None
        rank, entry, granted = best
        after = bisect_right(best_pile.by_rank, rank, key=_key)
        rivals += [key for key, _ in best_pile.by_rank[after : after + 1]]
        rival_id = min((key[2] for key in rivals if key[:2] == rank[:2] and key[3] != rank[3]), default=None)
        return Pick(Lane.RANK, entry, granted, rival_id)

    def _first_ranked(self, pile: Pile) -> _Found | None:
        known = self._ranked.get(pile)
        if known is not None and not known[1].is_gone and self._opening.is_allowed(known[1]):
            granted = self._opening.granted(known[1])
            if granted is not None:
                return known[0], known[1], granted
        found = self._first(pile.by_rank, Lane.RANK)
        if found is not None:
            self._ranked[pile] = found
        return found

    def _first(self, items: Ordered, lane: Lane) -> _Found | None:
        """The first of a pile that may run here; of the wide ones even if it has to wait for room."""
        verdicts, opening = self._opening.verdicts, self._opening
        known = verdicts.known
        since = self._wide_since if lane is Lane.WIDE else self._old_since
        for key, entry in items:
            verdict = known[entry.wish.ordinal]
            if verdict == NO:
                continue
            if lane is not Lane.RANK and key[0] > since:
                return None
            if not (verdict == YES or verdicts.allow(entry.wish)):
                continue
            if not (opening.is_open or opening.is_allowed(entry)):
                continue
            granted = opening.granted(entry)
            if lane is Lane.WIDE:
                if entry.width > 1 and entry.wish.needs.wall_time <= opening.time_left:
                    return key, entry, granted
            elif granted is not None:
                return key, entry, granted
        return None


def _key(item: tuple[Any, Any]) -> Any:
    return item[0]
