"""What part of a limit each VO, or each queue, may have where several want room under it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence

from executors.pilots.planning.ceilings import Ceiling
from executors.pilots.planning.spots import Spot

_ROUNDING = 1e-9


class Parts:
    """The parts that VOs have, by their shares, of every limit that several of them want room under."""

    def __init__(self, spots: Sequence[Spot], vo_ids: Collection[int]) -> None:
        shares: defaultdict[Ceiling, dict[int, float]] = defaultdict(dict)
        for spot in spots if len(vo_ids) > 1 else ():
            if spot.room.vo_id in vo_ids:
                for ceiling in spot.ceilings:
                    shares[ceiling][spot.room.vo_id] = spot.room.share
        self._whole = {ceiling: sum(of.values()) for ceiling, of in shares.items() if len(of) > 1}
        self._added: defaultdict[Ceiling, int] = defaultdict(int)
        self._mine: defaultdict[tuple[Ceiling, int], int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._whole)

    def note(self, spot: Spot, count: int) -> None:
        """So many pilots were requested there."""
        if self._whole:
            for ceiling in spot.ceilings:
                self._added[ceiling] += count
                self._mine[ceiling, spot.room.vo_id] += count

    def room(self, spot: Spot, left: int) -> int:
        """How many of the pilots that may be requested there are this VO's."""
        for ceiling in spot.ceilings:
            if ceiling in self._whole:
                part = part_of(ceiling.left + self._added[ceiling], spot.room.share, self._whole[ceiling])
                left = min(left, part - self._mine[ceiling, spot.room.vo_id])
        return max(left, 0)


def part_of(of: int, weight: float, whole: float) -> int:
    """The part of `of` that `weight` has in `whole`, rounded up; all of it where nothing has any weight."""
    return math.ceil(of * weight / whole - _ROUNDING) if whole > 0 else of
