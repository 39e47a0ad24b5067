"""What waits, laid out for the search: by VO, group, owner, and piles of about the same needs, each in order.

One look tells that there is no room for a whole pile; in a pile, the first level that the node may run at all is the
one. Nothing here is kept per kind of node: that is a byte of eligibility each.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from executors.matching.eligibility import Eligibility, Wish
from executors.matching.rooms import Shape
from pipeline.store.match_rows import Level

FEW_SITES = 8
"""A level that names no more sites than these is looked at by their slots alone."""

Key = tuple[int, int]
"""Autocluster and priority: what tells levels apart."""


@dataclass(slots=True, eq=False)
class Entry:
    """A level by one of its alternatives."""

    level: Level
    wish: Wish
    width: int
    """Cores that the level needs at the least, by whatever alternative."""
    sites: tuple[str | None, ...]
    """The sites whose pools it is in; None: the pool of any site."""
    is_gone: bool = False

    def rank(self) -> tuple[int, int, int, int, int]:
        """By which an owner's levels are served, the least first: priority, width, age."""
        level = self.level
        return -level.priority, -self.width, level.head_job_id, level.autocluster_id, self.wish.alternative

    def age(self) -> tuple[float, int, int, int, int]:
        """By how long they have waited; levels of which that is not known are left out."""
        level = self.level
        since = 0.0 if level.waiting_since is None else level.waiting_since.timestamp()
        return since, level.head_job_id, level.autocluster_id, -level.priority, self.wish.alternative


Ordered = list[tuple[Any, Any]]
"""(key, what it orders), sorted. No two keys are alike, so that what they order is never compared."""


@dataclass(slots=True, eq=False)
class Pile:
    """The entries of one owner that need about the same."""

    shape: Shape
    by_rank: Ordered = field(default_factory=list)
    by_age: Ordered = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Pool:
    """An owner's piles that slots of one site, or of any, look at: by shape, and each order by the first of each."""

    piles: dict[Shape, Pile] = field(default_factory=dict)
    by_rank: Ordered = field(default_factory=list)
    by_age: Ordered = field(default_factory=list)
    wide_by_age: Ordered = field(default_factory=list)
    """Those of `by_age` that need more than one core."""

    def add(self, entry: Entry) -> None:
        """Put it where it belongs."""
        shape = entry.wish.shape
        pile = self.piles.get(shape)
        if pile is None:
            pile = self.piles[shape] = Pile(shape)
        _insert((self.by_rank,), pile, pile.by_rank, entry.rank(), entry)
        if entry.level.waiting_since is not None:
            _insert(self._ages(shape), pile, pile.by_age, entry.age(), entry)

    def remove(self, entry: Entry) -> Pile:
        """Take it out of the pile, which stays there."""
        shape = entry.wish.shape
        pile = self.piles[shape]
        _delete((self.by_rank,), pile, pile.by_rank, entry.rank())
        if entry.level.waiting_since is not None:
            _delete(self._ages(shape), pile, pile.by_age, entry.age())
        return pile

    def move(self, old: Entry, new: Entry) -> None:
        """Have a level's present head in place of an earlier one."""
        pile = self.piles[old.wish.shape]
        _replace((self.by_rank,), pile, pile.by_rank, old.rank(), (new.rank(), new))
        if old.level.waiting_since is not None:
            _replace(self._ages(pile.shape), pile, pile.by_age, old.age(), (new.age(), new))

    def _ages(self, shape: Shape) -> tuple[Ordered, ...]:
        return (self.by_age,) if shape.cores <= 1 else (self.by_age, self.wide_by_age)


def _insert(orders: tuple[Ordered, ...], pile: Pile, items: Ordered, key: Any, entry: Entry) -> None:
    """Into the pile, and the pile into each order if it has another first now."""
    if not items or key < items[0][0]:
        for order in orders:
            if items:
                del order[bisect_left(order, (items[0][0],))]
            insort(order, (key, pile))
    insort(items, (key, entry))


def _delete(orders: tuple[Ordered, ...], pile: Pile, items: Ordered, key: Any) -> None:
    index = bisect_left(items, (key,))
    del items[index]
    if index == 0:
        for order in orders:
            del order[bisect_left(order, (key,))]
            if items:
                insort(order, (items[0][0], pile))


def _replace(orders: tuple[Ordered, ...], pile: Pile, items: Ordered, old: Any, item: tuple[Any, Entry]) -> None:
    """The next job of a level mostly comes right after the last one: then nothing else need move."""
    new, index = item[0], bisect_left(items, (old,))
    is_before_next = index + 1 == len(items) or new < items[index + 1][0]
    if not is_before_next or (index > 0 and new < items[index - 1][0]):
        _delete(orders, pile, items, old)
        _insert(orders, pile, items, *item)
        return
    items[index] = item
    if index == 0:
        for order in orders:
            del order[bisect_left(order, (old,))]
            insort(order, (new, pile))


@dataclass(slots=True, eq=False)
class Desk:
    """One owner: pools by site (None: wherever), and what those who overtook others still owe them."""

    pools: dict[str | None, Pool] = field(default_factory=dict)
    debts: dict[str, float] = field(default_factory=dict)

    def at(self, site: str) -> list[Pool]:
        """The pools that slots of a site look at."""
        return [pool for of_site in (None, site) if (pool := self.pools.get(of_site)) is not None]


class Board:
    """The levels that wait, at most one per autocluster and priority. One per process, kept across rounds."""

    def __init__(self, eligibility: Eligibility) -> None:
        self.eligibility = eligibility
        self.desks: dict[int, dict[int, dict[int, Desk]]] = {}
        """By VO, group and owner."""
        self.shapes: dict[int, dict[Shape, int]] = {}
        """By VO: how many entries have a shape."""
        self._generation = eligibility.generation
        self._entries: dict[int, dict[int, tuple[Entry, ...]]] = {}
        """By autocluster and priority."""
        self._emptied: list[tuple[Level, str | None, Shape]] = []

    def put(self, level: Level) -> None:
        """Add a level, or replace the one of the same autocluster and priority."""
        of_cluster = self._entries.setdefault(level.autocluster_id, {})
        known = of_cluster.get(level.priority)
        if known is None:
            of_cluster[level.priority] = self._new(level)
            self._pile(of_cluster[level.priority])
        elif known[0].level == level:
            return
        elif (known[0].level.waiting_since is None) == (level.waiting_since is None):
            of_cluster[level.priority] = self._moved(known, level)
        else:
            self._unpile(known)
            of_cluster[level.priority] = self._new(level)
            self._pile(of_cluster[level.priority])

    def drop(self, autocluster_id: int, priority: int | None = None) -> None:
        """Take away one level of an autocluster, or all of them; no matter if there is none."""
        of_cluster = self._entries.get(autocluster_id, {})
        for each in list(of_cluster) if priority is None else [priority]:
            self._unpile(of_cluster.pop(each, ()))
        if not of_cluster:
            self._entries.pop(autocluster_id, None)

    def replace_all(self, levels: Iterable[Level]) -> None:
        """Have exactly these levels; what stays the same costs little."""
        wanted = {(level.autocluster_id, level.priority): level for level in levels}
        for level in self.levels():
            if (level.autocluster_id, level.priority) not in wanted:
                self.drop(level.autocluster_id, level.priority)
        for level in wanted.values():
            self.put(level)

    def get(self, key: Key) -> Level | None:
        """The level of an autocluster and a priority."""
        entries = self._entries.get(key[0], {}).get(key[1])
        return None if entries is None else entries[0].level

    def of(self, autocluster_id: int) -> tuple[Level, ...]:
        """The levels of one autocluster, the highest priority first."""
        of_cluster = self._entries.get(autocluster_id, {})
        return tuple(of_cluster[priority][0].level for priority in sorted(of_cluster, reverse=True))

    def entries(self, autocluster_id: int) -> list[Entry]:
        """Its levels by each of their alternatives, the highest priority first, then the preferred alternative."""
        of_cluster = self._entries.get(autocluster_id, {})
        return [entry for priority in sorted(of_cluster, reverse=True) for entry in of_cluster[priority]]

    def levels(self) -> list[Level]:
        """All of them, in no order."""
        return [entries[0].level for of_cluster in self._entries.values() for entries in of_cluster.values()]

    def refresh(self) -> None:
        """Before a round: tidy up, and begin anew if eligibility did, or must."""
        self._tidy()
        if self.eligibility.is_full():
            self.eligibility.forget()
        if self._generation != self.eligibility.generation:
            levels = self.levels()
            self._generation = self.eligibility.generation
            self._entries.clear()
            self.desks.clear()
            self.shapes.clear()
            for level in levels:
                self.put(level)

    def _new(self, level: Level) -> tuple[Entry, ...]:
        wishes = self.eligibility.wishes(level.requirement_id, level.requirement)
        width = min(wish.needs.min_cores for wish in wishes)
        return tuple(Entry(level, wish, width, _indexed_under(wish)) for wish in wishes)

    def _moved(self, known: tuple[Entry, ...], level: Level) -> tuple[Entry, ...]:
        """An autocluster keeps its owner and its requirement: a level of it differs by its head alone."""
        entries = tuple(Entry(level, old.wish, old.width, old.sites) for old in known)
        pools = self.desks[level.vo_id][level.group_id][level.owner_id].pools
        for old, new in zip(known, entries, strict=True):
            old.is_gone = True
            for site in old.sites:
                pools[site].move(old, new)
        return entries

    def _pile(self, entries: tuple[Entry, ...]) -> None:
        level = entries[0].level
        owners = self.desks.setdefault(level.vo_id, {}).setdefault(level.group_id, {})
        desk = owners.get(level.owner_id)
        if desk is None:
            desk = owners[level.owner_id] = Desk()
        shapes = self.shapes.setdefault(level.vo_id, {})
        for entry in entries:
            shapes[entry.wish.shape] = shapes.get(entry.wish.shape, 0) + 1
            for site in entry.sites:
                pool = desk.pools.get(site)
                if pool is None:
                    pool = desk.pools[site] = Pool()
                pool.add(entry)

    def _unpile(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            entry.is_gone = True
            level, shape = entry.level, entry.wish.shape
            self.shapes[level.vo_id][shape] -= 1
            desk = self.desks[level.vo_id][level.group_id][level.owner_id]
            for site in entry.sites:
                if not desk.pools[site].remove(entry).by_rank:
                    self._emptied.append((level, site, shape))

    def _tidy(self) -> None:
        """Throw away what is still empty: a round holds on to piles whose only level moves."""
        for level, site, shape in self._emptied:
            shapes, owners = self.shapes[level.vo_id], self.desks[level.vo_id][level.group_id]
            if shapes.get(shape) == 0:
                del shapes[shape]
            desk = owners.get(level.owner_id)
            pool = None if desk is None else desk.pools.get(site)
            if desk is None or pool is None:
                continue
            if shape in pool.piles and not pool.piles[shape].by_rank:
                del pool.piles[shape]
            if not pool.piles:
                del desk.pools[site]
            if not desk.pools:
                del owners[level.owner_id]
        self._emptied.clear()


def _indexed_under(wish: Wish) -> tuple[str | None, ...]:
    sites = set(wish.specification.sites)
    return tuple(sorted(sites)) if 0 < len(sites) <= FEW_SITES else (None,)
