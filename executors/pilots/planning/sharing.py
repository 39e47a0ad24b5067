"""How the demand that nothing serves yet is shared over the site queues that fit it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from executors.pilots.planning.allowance import Allowance
from executors.pilots.planning.ceilings import Ceiling
from executors.pilots.planning.fitting import Fit, Want, packed
from executors.pilots.planning.spots import Spot
from executors.pilots.planning.supply import Pool, fill
from executors.pilots.planning.takers import Takers
from schemas.requirements import Specification

_ROUNDING = 1e-9
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
        self._parts = _Parts(spots, takers)

    def share(self) -> None:
        """Request pilots: first no VO takes more than its part of a queue, then what is left goes to anybody."""
        bundles = [bundle for vo_id, mine in self._takers.by_vo.items() for bundle in _bundles(mine, self._open[vo_id])]
        for split in (True, False) if self._parts else (False,):
            for bundle in bundles:
                self._share(bundle.want, self._open[bundle.want.vo_id], split=split)
        for bundle in bundles:
            bundle.settle()

    def keep(self) -> None:
        """Pilots that hang in a queue stay as long as there are jobs that nothing else was found for."""
        for spot in self._spots:
            if spot.stale and not spot.room.banned and (left := self._takers.at(spot)):
                pool = Pool(spot.stale, spot.kind.whole, spot.kind.lasts)
                spot.used_pending += fill(left, spot, pool, self._allowance)

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
            part = _part(want.jobs, one.weight, whole)
            whole -= one.weight
            room = one.room
            for ceiling in one.spot.shared if under else ():
                room = min(room, _part(ceiling.left, one.weight, under[ceiling]))
                under[ceiling] -= one.weight
            self._order(want, one, part, room)
        return bool(candidates)

    def _order(self, want: Want, one: _Candidate, part: int, room: int) -> None:
        spot, each = one.spot, one.fit.each
        most = int(min(want.jobs, self._allowance.room(want.rules, spot.room.site_id)))
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
        want.jobs -= jobs
        self._allowance.take(want.rules, spot.room.site_id, jobs)
        self._leave(want, one, kept + new, jobs)

    def _leave(self, want: Want, one: _Candidate, pilots: int, jobs: int) -> None:
        """What these jobs leave free of the pilots is there for others."""
        full, rest = divmod(jobs, one.fit.each)
        kind, begun = one.spot.kind, self._begun[want.vo_id]
        spare = pilots - full - bool(rest)
        if spare > 0:
            begun.append((one.spot, Pool(spare, kind.whole, kind.lasts)))
        if rest and kind.whole.cores > 1:
            _, free = packed(one.usable[0], kind.whole, kind.lasts, kind.fresh.power, rest)
            if free.cores > 0:
                begun.append((one.spot, Pool(1, free, kind.lasts)))

    def _fill_begun(self, want: Want) -> None:
        left: list[tuple[Spot, Pool]] = []
        for spot, pool in self._begun[want.vo_id]:
            usable = spot.usable(want) if want.jobs > 0 and want.cores <= pool.free.cores else ()
            left += _after(want, usable, spot, pool, self._allowance) if usable else [(spot, pool)]
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


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Wants that fit the same queues alike: shared as one, `want`; what is left goes back to the `members`."""

    want: Want
    members: Sequence[Want]

    def settle(self) -> None:
        """The first members have what there is."""
        left = self.want.jobs
        for member in reversed(self.members):
            member.jobs, left = min(member.jobs, left), left - min(member.jobs, left)


def _bundles(mine: Iterable[Want], open_: Sequence[Spot]) -> list[_Bundle]:
    kinds = {(spot.kind.key, spot.room.only_job_type): spot for spot in open_}
    found: dict[object, list[Want]] = {}
    for want in mine:
        if want.jobs <= 0:
            continue
        fits = [spot.fit(want) for spot in kinds.values()]
        alike = tuple(None if fit is None else (fit.each, fit.cores) for fit in fits)
        names = [fit.usable for fit in fits if fit is not None and fit.is_bound]
        sites = tuple((one.sites, one.banned_sites) for usable in names[:1] for one in usable)
        found.setdefault((want.rules, want.job_type, want.cores, alike, sites), []).append(want)
    return [_bundle(members) for members in found.values()]


def _bundle(members: Sequence[Want]) -> _Bundle:
    largest = max(members, key=lambda want: want.alternatives[0].specification.least.memory)
    whole = Want(largest.vo_id, largest.job_type, largest.alternatives, largest.rules, largest.fits, largest.cores)
    whole.jobs = whole.total = sum(want.jobs for want in members)
    return _Bundle(whole, members)


class _Parts:
    """The parts that VOs have, by their shares, of every limit that several of them want room under."""

    def __init__(self, spots: Sequence[Spot], takers: Takers) -> None:
        shares: defaultdict[Ceiling, dict[int, float]] = defaultdict(dict)
        for spot in spots if len(takers.by_vo) > 1 else ():
            if spot.room.vo_id in takers.by_vo:
                for ceiling in spot.ceilings:
                    shares[ceiling][spot.room.vo_id] = spot.room.share
        self._whole = {ceiling: sum(of.values()) for ceiling, of in shares.items() if len(of) > 1}
        self._added: defaultdict[Ceiling, int] = defaultdict(int)
        self._mine: defaultdict[tuple[Ceiling, int], int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._whole)

    def note(self, spot: Spot, count: int) -> None:
        if self._whole:
            for ceiling in spot.ceilings:
                self._added[ceiling] += count
                self._mine[ceiling, spot.room.vo_id] += count

    def room(self, spot: Spot, left: int) -> int:
        """How many of the pilots that may be requested there are this VO's."""
        for ceiling in spot.ceilings:
            if ceiling in self._whole:
                part = _part(ceiling.left + self._added[ceiling], spot.room.share, self._whole[ceiling])
                left = min(left, part - self._mine[ceiling, spot.room.vo_id])
        return max(left, 0)


def _part(of: int, weight: float, whole: float) -> int:
    return math.ceil(of * weight / whole - _ROUNDING) if whole > 0 else of


def _after(
    want: Want, usable: tuple[Specification, ...], spot: Spot, pool: Pool, allowance: Allowance
) -> list[tuple[Spot, Pool]]:
    """What is left of these pilots when such jobs have taken what they can."""
    free, power = pool.free, spot.kind.fresh.power
    each, after = packed(usable[0], free, pool.lasts, power)
    most = int(min(want.jobs, allowance.room(want.rules, spot.room.site_id)))
    if not each or most <= 0:
        return [(spot, pool)]
    full, rest = divmod(min(most, each * pool.many), each)
    taken = full * each + rest
    want.jobs -= taken
    allowance.take(want.rules, spot.room.site_id, taken)
    left = [(full, after), (pool.many - full - bool(rest), free)]
    if rest:
        left.append((1, packed(usable[0], free, pool.lasts, power, rest)[1]))
    return [(spot, Pool(many, room, pool.lasts)) for many, room in left if many > 0 and room.cores > 0]
