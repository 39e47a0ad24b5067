"""How the demand that nothing serves yet is shared over the site queues that fit it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from executors.pilots.planning.allowance import Allowance
from executors.pilots.planning.bundles import bundled
from executors.pilots.planning.ceilings import Ceiling
from executors.pilots.planning.fitting import Fit, Want, packed
from executors.pilots.planning.parts import Parts, part_of
from executors.pilots.planning.pools import Pool, allowed, fill, fill_alone, fresh, take
from executors.pilots.planning.spots import Spot
from executors.pilots.planning.takers import Takers
from schemas.requirements import Specification

_PASSES = 3
_MOST_BEGUN = 100
"""Kinds of room in new pilots that are kept in mind for the next jobs."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    spot: Spot
    usable: tuple[Specification, ...]
    fit: Fit
    room: int
    weight: float


class Sharing:
    """Requests pilots, and never over any limit.

    Each queue's part is weighted by its free room in cores, by how fast it has started pilots of late, and by how well
    its pilots would be filled. Pilots that hang in a queue are used up before new ones are requested behind them.
    """

    def __init__(self, takers: Takers, spots: Sequence[Spot], allowance: Allowance) -> None:
        self._takers = takers
        self._spots = spots
        self._allowance = allowance
        self._open: defaultdict[int, list[Spot]] = defaultdict(list)
        for spot in spots:
            if not spot.room.closed and (spot.left() > 0 or spot.stale):
                self._open[spot.room.vo_id].append(spot)
        self._begun: defaultdict[int, list[tuple[Spot, Pool]]] = defaultdict(list)
        """By VO, new pilots that have room left."""
        self._parts = Parts(spots, takers.by_vo)

    def share(self) -> None:
        """Request pilots: first no VO takes more than its part of a queue, then what is left goes to anybody."""
        bundles = [bundle for vo_id, mine in self._takers.by_vo.items() for bundle in bundled(mine, self._open[vo_id])]
        for split in (True, False) if self._parts else (False,):
            for bundle in bundles:
                self._share(bundle.want, self._open[bundle.want.vo_id], split=split)
        for bundle in bundles:
            bundle.settle()

    def keep(self) -> None:
        """Pilots that hang in a queue stay as long as there are jobs that nothing else was found for."""
        for spot in self._spots:
            if spot.stale and not spot.room.banned and (left := self._takers.at(spot)):
                spot.used_pending += fill(left, spot, fresh(spot, spot.stale), self._allowance)

    def _share(self, want: Want, open_: Sequence[Spot], *, split: bool) -> None:
        if want.jobs > 0 and self._begun[want.vo_id]:
            self._fill_begun(want)
        for nth in range(_PASSES):
            if want.jobs <= 0 or not self._pass(want, open_, split=split, is_last=nth == _PASSES - 1):
                break

    def _pass(self, want: Want, open_: Sequence[Spot], *, split: bool, is_last: bool) -> bool:
        """Every fitting queue gets its part once, of the demand and of the limits that it shares with others; whether
        there was any. What rounding leaves over is for anybody, in the last pass."""
        candidates = self._candidates(want, open_, split=split)
        whole = sum(one.weight for one in candidates)
        under: defaultdict[Ceiling, float] = defaultdict(float)
        for one in () if is_last else candidates:
            for ceiling in one.spot.shared:
                under[ceiling] += one.weight
        for one in candidates:
            if want.jobs <= 0:
                break
            part = part_of(want.jobs, one.weight, whole)
            whole -= one.weight
            room = one.room
            for ceiling in one.spot.shared if under else ():
                room = min(room, part_of(ceiling.left, one.weight, under[ceiling]))
                under[ceiling] -= one.weight
            self._order(want, one, part, room)
        return bool(candidates)

    def _order(self, want: Want, one: _Candidate, part: int, room: int) -> None:
        spot, each = one.spot, one.fit.each
        most = allowed(want, spot, self._allowance)
        needed = -(-min(part, most) // each)
        if needed <= 0:
            return
        kept = min(spot.stale, needed)
        new = -(-(needed - kept) // spot.nodes) * spot.nodes
        room = min(room, spot.left())  # others may have taken of it
        new = min(new, room - room % spot.nodes)
        if kept + new <= 0:
            return
        jobs = min((kept + new) * each, most)
        spot.used_pending += kept
        if new:
            spot.request(new)
            self._parts.note(spot, new)
        take(want, spot, jobs, self._allowance)
        self._leave(want, one, kept + new, jobs)

    def _leave(self, want: Want, one: _Candidate, pilots: int, jobs: int) -> None:
        """What these jobs leave free of the pilots is there for others."""
        full, rest = divmod(jobs, one.fit.each)
        kind, begun = one.spot.kind, self._begun[want.vo_id]
        spare = pilots - full - bool(rest)
        if spare > 0:
            begun.append((one.spot, fresh(one.spot, spare)))
        if rest and kind.whole.cores > 1:
            _, free = packed(one.usable[0], kind.whole, kind.lasts, kind.fresh.power, rest)
            if free.cores > 0:
                begun.append((one.spot, Pool(1, free, kind.lasts)))

    def _fill_begun(self, want: Want) -> None:
        left: list[tuple[Spot, Pool]] = []
        for spot, pool in self._begun[want.vo_id]:
            usable = spot.usable(want) if want.jobs > 0 and want.cores <= pool.free.cores else ()
            after = fill_alone(want, usable[0], spot, pool, self._allowance) if usable else [pool]
            left += [(spot, one) for one in after]
        self._begun[want.vo_id] = left[:_MOST_BEGUN]

    def _candidates(self, want: Want, open_: Sequence[Spot], *, split: bool) -> list[_Candidate]:
        found = []
        for spot in open_:
            room = spot.left()
            if split and room > 0:
                room = self._parts.room(spot, room)
            if room <= 0 and spot.stale <= 0:
                continue
            fit = spot.fit(want)
            if fit is None or not (usable := fit.at(spot.room.site)):
                continue
            cores = spot.kind.whole.cores
            filled = min(want.jobs, fit.each) * fit.cores / cores
            weight = (room + spot.stale) * cores * spot.prospect.speed * filled
            found.append(_Candidate(spot, usable, fit, room, weight))
        found.sort(key=lambda one: (-one.weight, one.spot.room.place))
        return found
