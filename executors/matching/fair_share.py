"""Whose turn it is: usage per share of groups, and in each group of owners, charged as a round goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from math import inf

from pipeline.store.match_rows import Account

_Turn = tuple[float, float, int]
"""Usage per share, the share (negated: among equals the larger goes first), id: the least is next."""


@dataclass(frozen=True, slots=True)
class Entitlements:
    """A VO's shares with ids for names; a group or an owner that is not named has share 1."""

    groups: Mapping[int, float] = field(default_factory=dict)
    """By group id."""
    owners: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """By (group id, owner id)."""


class Shares:
    """The shares of all VOs in one round."""

    def __init__(self, entitlements: Mapping[int, Entitlements], accounts: Iterable[Account]) -> None:
        """`entitlements` by VO id; who has no account has used nothing."""
        self._entitlements = entitlements
        self._groups: defaultdict[tuple[int, int], float] = defaultdict(float)
        self._owners: defaultdict[tuple[int, int, int], float] = defaultdict(float)
        for account in accounts:
            self.charge(account.vo_id, account.group_id, account.owner_id, account.usage)

    def charge(self, vo_id: int, group_id: int, owner_id: int, amount: float) -> None:
        """Core-seconds that an owner got, and its group with it."""
        self._groups[vo_id, group_id] += amount
        self._owners[vo_id, group_id, owner_id] += amount

    def group_turn(self, vo_id: int, group_id: int) -> _Turn:
        """When a group's turn is."""
        share = self._of(vo_id).groups.get(group_id, 1.0)
        return self._groups[vo_id, group_id] / share, -share, group_id

    def owner_turn(self, vo_id: int, group_id: int, owner_id: int) -> _Turn:
        """When an owner's turn is among those of its group."""
        share = self._of(vo_id).owners.get((group_id, owner_id), 1.0)
        return self._owners[vo_id, group_id, owner_id] / share, -share, owner_id

    def _of(self, vo_id: int) -> Entitlements:
        return self._entitlements.get(vo_id, _ALL_ALIKE)


_ALL_ALIKE = Entitlements()


class Turns:
    """The owners of one VO in order, for one round. Usage only grows meanwhile, so that a turn which is too early in
    the heap is found out when it comes to the top."""

    def __init__(self, shares: Shares, vo_id: int, owners: Mapping[int, Collection[int]]) -> None:
        """`owners` by group: those with jobs that wait."""
        self._shares, self._vo_id = shares, vo_id
        self._owners = {
            group_id: [shares.owner_turn(vo_id, group_id, owner_id) for owner_id in mine]
            for group_id, mine in owners.items()
            if mine
        }
        for heap in self._owners.values():
            heapify(heap)
        self._groups = [shares.group_turn(vo_id, group_id) for group_id in self._owners]
        heapify(self._groups)
        self._aside: list[tuple[int, int]] = []

    def next(self) -> tuple[int, int] | None:
        """(group, owner) whose turn it is; None when all have passed."""
        while self._groups:
            group_id = self._groups[0][2]
            now = self._shares.group_turn(self._vo_id, group_id)
            if now != self._groups[0]:
                heapreplace(self._groups, now)
                continue
            return group_id, self._next_owner(group_id)
        return None

    def _next_owner(self, group_id: int) -> int:
        owners = self._owners[group_id]
        while True:
            owner_id = owners[0][2]
            now = self._shares.owner_turn(self._vo_id, group_id, owner_id)
            if now == owners[0]:
                return owner_id
            heapreplace(owners, now)

    def margin(self) -> float:
        """Core-seconds that the owner whose turn it is can be charged before it is somebody else's."""
        group, owner = self._groups[0], self._owners[self._groups[0][2]][0]
        return min(_margin(group, self._groups), _margin(owner, self._owners[group[2]]))

    def skip(self) -> None:
        """The owner whose turn it is has nothing for this slot."""
        group_id = self._groups[0][2]
        _, _, owner_id = heappop(self._owners[group_id])
        self._aside.append((group_id, owner_id))
        if not self._owners[group_id]:
            heappop(self._groups)

    def restart(self) -> None:
        """The next slot: all who were skipped are in again."""
        for group_id, owner_id in self._aside:
            owners = self._owners[group_id]
            if not owners:
                heappush(self._groups, self._shares.group_turn(self._vo_id, group_id))
            heappush(owners, self._shares.owner_turn(self._vo_id, group_id, owner_id))
        self._aside.clear()


def _margin(first: _Turn, heap: list[_Turn]) -> float:
    """The second least of a heap is one of the two below its top."""
    second = min(heap[1:3], default=None)
    return inf if second is None else (second[0] - first[0]) * -first[1]
