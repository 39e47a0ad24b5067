"""What limits and start rates leave, counted down as the round goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from pipeline.store.match_rows import Level, LimitRow, Place, StartRate


class Allowance:
    """How many more jobs may go where. `limits` are those of sites too: their selector names the site alone."""

    def __init__(self, limits: Sequence[LimitRow], rates: Iterable[StartRate], now: datetime) -> None: ...

    def left(self, level: Level, place: Place) -> int:
        """How many more jobs of the level may start there now; a very large number where nothing limits them."""
        raise NotImplementedError

    def limits_of(self, level: Level, place: Place) -> tuple[int, ...]:
        """Ids of the limits that a job of the level counts against there."""
        raise NotImplementedError

    def spend(self, level: Level, place: Place, count: int) -> None:
        """So many jobs of the level were given to the place."""

    def limits_spent(self) -> Mapping[int, int]:
        """Jobs counted against each limit since the beginning, by its id: by how much `running` moves."""
        return Counter()

    def starts_spent(self) -> Mapping[int, int]:
        """Tokens used of each site that has a start rate, by site id."""
        return Counter()
