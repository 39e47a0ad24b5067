"""Which waiting jobs fit which site queues: asked a million times, so that what was found out is remembered."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from executors.pilots.planning.allowance import Allowance
from pipeline.store.match_rows import LimitRow
from pipeline.store.provisioning_rows import Demand, Room
from schemas import rooms as grants
from schemas.placement import fresh_pilot
from schemas.requirements import Requirement, Resource, Specification, grant, room_of, suits

_REMEMBERED = 200_000
"""Pairs of a requirement and a kind of pilot; beyond that, all is forgotten."""
_KINDS = 5_000
"""Kinds of pilots, and site queues' entries that are known by being the same object."""


@dataclass(slots=True, eq=False)
class Want:
    """Waiting jobs that are alike, the ones for which there is nothing yet, and the limits that count them."""

    vo_id: int
    job_type: str
    alternatives: tuple[Alternative, ...]
    rules: tuple[LimitRow, ...]
    fits: dict[int, Fit | None]
    """What is known of how they fit, by kind of pilot."""
    cores: int
    """What one of them takes at the least."""
    total: int = 0
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class Alternative:
    """One specification. `shape` is a number for all that neither room, time nor site changes, `needs` one for what it
    needs of these."""

    specification: Specification
    shape: int
    needs: int


@dataclass(frozen=True, slots=True)
class Fit:
    """How jobs fit a kind of pilot, whatever its site: the alternatives that do, and how many of them a fresh one runs
    side by side."""

    usable: tuple[Specification, ...]
    each: int
    cores: int
    """Of one job there, with all that it takes."""
    is_bound: bool
    """Whether it names sites."""

    def at(self, site: str) -> tuple[Specification, ...]:
        """The alternatives that may run at this site."""
        if not self.is_bound:
            return self.usable
        return tuple(
            one for one in self.usable if (not one.sites or site in one.sites) and site not in one.banned_sites
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """A fresh pilot without its site; equal ones have one key. `nature` is a number for all that is neither room nor
    time, `size` one for these."""

    key: int
    fresh: Resource
    whole: grants.Room
    nature: int
    size: int

    @property
    def lasts(self) -> float:
        """Seconds."""
        return float(self.fresh.wall_time)


class Memory:
    """What fits what, from one plan to the next: nothing but what the values themselves say, so it can't be wrong.

    Of thousands of requirements and queues few differ in more than numbers: what these leave alone is compared once.
    Threads may share it, as those of the API do: no number is given twice, also after all was forgotten.
    """

    def __init__(self) -> None:
        self._new = itertools.count()
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[object, int] = {}
        self._kinds: dict[Resource, Kind] = {}
        self._by_entry: dict[int, tuple[object, float, Kind]] = {}
        self._known: dict[Requirement, tuple[tuple[Alternative, ...], dict[int, Fit | None]]] = {}
        self._suits: dict[tuple[int, int], bool] = {}
        self._counts: dict[tuple[int, int], tuple[int, int]] = {}
        self._pairs = 0

    def trim(self) -> None:
        """Forget all when it is too much."""
        if self._pairs > _REMEMBERED or len(self._kinds) > _KINDS or len(self._known) > _REMEMBERED:
            self._forget()

    def kind(self, room: Room, margin: float) -> Kind:
        """What a fresh pilot of this queue is like."""
        known = self._by_entry.get(id(room.entry))
        if known is not None and known[0] is room.entry and known[1] == margin:
            return known[2]
        fresh = fresh_pilot("any", room.entry, margin)
        kind = self._kinds.get(fresh)
        if kind is None:
            nature = self._number(fresh.model_copy(update={"cores": 1, "memory": 1, "disk": 1, "wall_time": 1}))
            whole = room_of(fresh)
            size = self._number((whole, fresh.wall_time, fresh.power))
            kind = self._kinds[fresh] = Kind(next(self._new), fresh, whole, nature, size)
        if len(self._by_entry) >= _KINDS:
            self._by_entry.clear()
        self._by_entry[id(room.entry)] = (room.entry, margin, kind)
        return kind

    def known(self, requirement: Requirement) -> tuple[tuple[Alternative, ...], dict[int, Fit | None]]:
        """The alternatives of a requirement, and what is known of how they fit, by kind of pilot."""
        found = self._known.get(requirement)
        if found is None:
            alternatives = tuple(self._alternative(one) for one in requirement.specifications())
            found = self._known[requirement] = (alternatives, {})
        return found

    def learn(self, want: Want, kind: Kind) -> Fit | None:
        """Find out how such jobs fit this kind of pilot."""
        self._pairs += 1
        usable = []
        first: tuple[int, int] | None = None
        for one in want.alternatives:
            if self._suit(one, kind) and (count := self._count(one, kind))[0]:
                usable.append(one.specification)
                first = first or count
        fit = None
        if first is not None:
            fit = Fit(tuple(usable), *first, any(one.sites or one.banned_sites for one in usable))
        want.fits[kind.key] = fit
        return fit

    def _suit(self, one: Alternative, kind: Kind) -> bool:
        key = one.shape, kind.nature
        found = self._suits.get(key)
        if found is None:
            found = self._suits[key] = suits(_shape(one.specification), kind.fresh)
        return found

    def _count(self, one: Alternative, kind: Kind) -> tuple[int, int]:
        """How many run side by side in a fresh pilot, and the cores of each."""
        key = one.needs, kind.size
        found = self._counts.get(key)
        if found is None:
            many, left = packed(one.specification, kind.whole, kind.lasts, kind.fresh.power)
            found = self._counts[key] = many, (kind.whole.cores - left.cores) // many if many else 0
        return found

    def _alternative(self, one: Specification) -> Alternative:
        return Alternative(one, self._number(_shape(one)), self._number(one.needs))

    def _number(self, value: object) -> int:
        return self._numbers.setdefault(value, next(self._new))


def _shape(one: Specification) -> Specification:
    """What `suits` looks at, without room, time and sites, about which `grant` and `Fit.at` are exact."""
    numbers = {"cores": 1, "memory": 1, "disk": 1, "wall_time": 1, "cpu_work": None}
    return one.model_copy(update={**numbers, "sites": (), "banned_sites": ()})


MEMORY = Memory()
"""Of this process."""


def wants(demand: Iterable[Demand], allowance: Allowance) -> list[Want]:
    """What waits, alike jobs together, the widest ones first."""
    found: dict[tuple[int, str, int, tuple[int, ...]], Want] = {}
    for one in demand:
        if one.jobs <= 0:
            continue
        rules = allowance.rules_of(one.owner)
        alternatives, fits = MEMORY.known(one.requirement)
        key = (one.vo_id, one.job_type, id(fits), tuple(rule.id for rule in rules))
        want = found.get(key)
        if want is None:
            want = found[key] = Want(
                one.vo_id, one.job_type, alternatives, rules, fits, alternatives[0].specification.min_cores
            )
        want.total += one.jobs
        want.jobs += one.jobs
    return sorted(found.values(), key=lambda want: -max(one.specification.min_cores for one in want.alternatives))


def packed(
    wanted: Specification, room: grants.Room, lasts: float, power: float | None, most: int | None = None
) -> tuple[int, grants.Room]:
    """How many such jobs fit side by side, and the room that they leave."""
    many = 0
    while most is None or many < most:
        given = grant(wanted, room, lasts, power)
        if given is None:
            break
        count = room.times(given)
        count = count if most is None else min(count, most - many)
        many += count
        room = room.less(given, count)
    return many, room
