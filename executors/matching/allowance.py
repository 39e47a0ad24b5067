"""What limits and start rates leave, counted down as a round goes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from sys import maxsize

from pipeline.store.match_rows import Level, LimitRow, Place, Selector, StartRate


class Allowance:
    """How many more jobs may go where. `limits` are those of sites too: their selector names the site alone."""

    def __init__(self, limits: Sequence[LimitRow], rates: Iterable[StartRate], now: datetime) -> None:
        self._ids = [limit.id for limit in limits]
        self._left = [max(limit.maximum - limit.running, 0) for limit in limits]
        self._spent = [0] * len(limits)
        self._starts = {rate.site_id: rate.left(now) for rate in rates}
        self._started: Counter[int] = Counter()
        self._by_clue: defaultdict[tuple[str, object], list[tuple[int, Selector]]] = defaultdict(list)
        for index, limit in enumerate(limits):
            self._by_clue[_clue(limit.selector)].append((index, limit.selector))
        self._of: dict[tuple[int, int], tuple[int, ...]] = {}

    def is_free(self, site_id: int) -> bool:
        """Whether nothing can limit any job there."""
        return not self._ids and site_id not in self._starts

    def starts_left(self, site_id: int) -> int:
        """How many more jobs may start at a site now."""
        return self._starts.get(site_id, maxsize)

    def left(self, level: Level, place: Place) -> int:
        """How many more jobs of the level may start there now; a very large number where nothing limits them."""
        most = self._starts.get(place.site_id, maxsize)
        for index in self._concerning(level, place.site_id):
            most = min(most, self._left[index])
        return most

    def is_below_limits(self, level: Level, place: Place) -> bool:
        """Whether limits, start rates aside, leave the level a job there."""
        return all(self._left[index] > 0 for index in self._concerning(level, place.site_id))

    def limits_of(self, level: Level, place: Place) -> tuple[int, ...]:
        """Ids of the limits that a job of the level counts against there."""
        return tuple(self._ids[index] for index in self._concerning(level, place.site_id))

    def spend(self, level: Level, place: Place, count: int) -> None:
        """So many jobs of the level were given to the place."""
        for index in self._concerning(level, place.site_id):
            self._left[index] -= count
            self._spent[index] += count
        if place.site_id in self._starts:
            self._starts[place.site_id] -= count
            self._started[place.site_id] += count

    def limits_spent(self) -> Mapping[int, int]:
        """Jobs counted against each limit since the beginning, by its id: by how much `running` moves."""
        return {self._ids[index]: count for index, count in enumerate(self._spent) if count}

    def starts_spent(self) -> Mapping[int, int]:
        """Tokens used of each site that has a start rate, by site id."""
        return dict(self._started)

    def _concerning(self, level: Level, site_id: int) -> tuple[int, ...]:
        """Indexes of limits. An autocluster stands for everything that selectors ask for but the site."""
        if not self._by_clue:
            return ()
        key = level.autocluster_id, site_id
        found = self._of.get(key)
        if found is None:
            clues: list[tuple[str, object]] = [
                ("site", site_id),
                ("owner", level.owner_id),
                ("job_type", level.job_type),
                ("group", level.group_id),
                ("any", None),
                *(("label", label) for label in dict.fromkeys(level.requirement.labels)),
            ]
            found = self._of[key] = tuple(
                index
                for clue in clues
                for index, selector in self._by_clue.get(clue, ())
                if _selects(selector, level, site_id)
            )
        return found


def _clue(selector: Selector) -> tuple[str, object]:
    """What a limit is filed under: the first thing that it asks for."""
    if selector.site_id is not None:
        return "site", selector.site_id
    if selector.owner_id is not None:
        return "owner", selector.owner_id
    if selector.label is not None:
        return "label", selector.label
    if selector.job_type is not None:
        return "job_type", selector.job_type
    if selector.group_id is not None:
        return "group", selector.group_id
    return "any", None


def _selects(selector: Selector, level: Level, site_id: int) -> bool:
    return (
        selector.vo_id in (None, level.vo_id)
        and selector.site_id in (None, site_id)
        and selector.group_id in (None, level.group_id)
        and selector.owner_id in (None, level.owner_id)
        and selector.job_type in (None, level.job_type)
        and (selector.label is None or selector.label in level.requirement.labels)
    )
