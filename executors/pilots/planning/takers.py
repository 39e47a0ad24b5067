"""Which waiting jobs may run at which place: found out once for each kind of pilot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from executors.pilots.planning.fitting import Fit, Want
from executors.pilots.planning.spots import Spot
from schemas.requirements import Specification

Taker = tuple[Want, tuple[Specification, ...]]
"""Jobs, and the alternatives by which they may run there."""
_Key = tuple[int, int, str | None]


class Takers:
    """The wants of all VOs, by where they fit."""

    def __init__(self, wants: Sequence[Want]) -> None:
        self._by_vo: dict[int, list[Want]] = {}
        for want in wants:
            self._by_vo.setdefault(want.vo_id, []).append(want)
        self._free: dict[_Key, list[Taker]] = {}
        self._bound: dict[_Key, list[tuple[Want, Fit]]] = {}
        self._waiting: dict[tuple[_Key, str], tuple[int, int]] = {}

    @property
    def by_vo(self) -> Mapping[int, Sequence[Want]]:
        """The widest ones first."""
        return self._by_vo

    def at(self, spot: Spot) -> list[Taker]:
        """The jobs without a place so far that may run there, the widest first but for those that name sites."""
        key, site = self._key(spot), spot.room.site
        found = [taker for taker in self._free[key] if taker[0].jobs > 0]
        bound = [(want, usable) for want, fit in self._bound[key] if want.jobs > 0 and (usable := fit.at(site))]
        if bound:
            found += bound
            found.sort(key=lambda taker: -taker[0].cores)
        return found

    def waiting(self, spot: Spot) -> tuple[int, int]:
        """Jobs that could run there, and their cores, whatever there is for them."""
        if spot.room.banned:
            return 0, 0
        key, site = self._key(spot), spot.room.site
        if not self._bound[key]:
            site = ""
        if (key, site) not in self._waiting:
            mine = [want for want, _ in self._free[key]]
            mine += [want for want, fit in self._bound[key] if fit.at(site)]
            self._waiting[key, site] = sum(want.total for want in mine), sum(want.total * want.cores for want in mine)
        return self._waiting[key, site]

    def _key(self, spot: Spot) -> _Key:
        room = spot.room
        key = room.vo_id, spot.kind.key, room.only_job_type
        if key not in self._free:
            fits = [(want, fit) for want in self._by_vo.get(room.vo_id, ()) if (fit := spot.fit(want)) is not None]
            self._free[key] = [(want, fit.usable) for want, fit in fits if not fit.is_bound]
            self._bound[key] = [(want, fit) for want, fit in fits if fit.is_bound]
        return key
