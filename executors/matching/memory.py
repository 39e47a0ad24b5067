"""What one process remembers between rounds. It is a cache: lost or wrong, it costs a reading and nothing else."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from executors.matching.board import Board
from executors.matching.eligibility import Eligibility
from executors.matching.keeping import counted
from executors.matching.terms import Backlog, Nodes, Outcome
from pipeline.store import waiting
from pipeline.store.database import Database, Transaction
from pipeline.store.match_rows import Level
from pipeline.store.matching import Kinds
from schemas.requirements import Requirement

_FRESH = 2.0
"""Seconds for which the heads of all autoclusters are believed, at the least."""
_COST = 20.0
"""And as many times as long as reading them took, so that it takes a small part of the time."""
_STALE = 30.0
"""Seconds after which they are read anew, unless reading them takes longer."""
_LOWER = 60.0
"""Seconds between two looks at levels below the heads: whatever waits too long there must be seen."""
_DEEP = 4
"""Levels of one autocluster that one such look finds at the most; the next look goes on below them."""
_HINTS = 10.0
"""Seconds after which jobs are taken from the front again: some may have come back behind the last one taken."""
_MOST = 4

Key = tuple[int, int]
"""Autocluster and priority: a level."""


def fresh_for(cost: float) -> float:
    """Seconds for which heads are believed that took `cost` seconds to read."""
    return max(_FRESH, min(_STALE, _COST * cost), cost)


@dataclass(slots=True)
class Memory:
    """The board of what waits, hints where to go on taking, what kinds of slots and requirements there are."""

    eligibility: Eligibility = field(default_factory=Eligibility)
    board: Board = field(init=False)
    kinds: Kinds = field(default_factory=Kinds)
    requirements: dict[int, Requirement] = field(default_factory=dict)
    hints: dict[Key, int] = field(default_factory=dict)
    """By level, the last job that was matched of it."""
    deep: set[Key] = field(default_factory=set)
    """Levels that had plenty of jobs when they were looked at last."""
    released_up_to: int = 0
    is_sure: bool = False
    """Whether what is remembered comes from committed transactions alone."""
    read_at: float = float("-inf")
    """When all heads were read last."""
    nodes: Mapping[int, Nodes] = field(default_factory=dict)
    """Of each VO, as of the last look."""
    _cost: float = 0.0
    _heads: dict[int, Level] = field(default_factory=dict)
    """By autocluster, as they were read: on the board, they move without a look at the next job."""
    _deepest: dict[int, Level] = field(default_factory=dict)
    """By autocluster, the last level that was looked at where there are more below it."""
    _lower_at: float = float("-inf")
    _hints_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.board = Board(self.eligibility)

    def refresh(self, tx: Transaction, autocluster_ids: Iterable[int] = ()) -> None:
        """Know what waits: the heads of these autoclusters as they are now, all others about so."""
        now = time.monotonic()
        was_sure, self.is_sure = self.is_sure, False
        if not was_sure or now - self._hints_at > _HINTS:
            self.hints.clear()
            self.released_up_to = 0
            self.nodes = counted(tx)
            self._hints_at = now
        if not was_sure or now - self.read_at > fresh_for(self._cost):
            self.read_all(tx)
            if now - self._lower_at > _LOWER:
                self.read_lower(tx)
        elif autocluster_ids:
            self._read(tx, set(autocluster_ids))

    def read_all(self, tx: Transaction) -> None:
        """Know what waits, as it is now; levels below the heads are believed to be as they were."""
        began = time.monotonic()
        found = waiting.heads(tx, self.requirements, known=self._heads)
        self._heads = {level.autocluster_id: level for level in found}
        lower = [level for level in self.board.levels() if _is_below(level, self._heads.get(level.autocluster_id))]
        self.board.replace_all([*lower, *found])
        self.read_at = began
        self._cost = time.monotonic() - began

    def read_lower(self, tx: Transaction) -> None:
        """Know what waits below the heads: for rounds, it may have waited for too long."""
        found = list(self._heads.values())
        above = [self._deepest.get(level.autocluster_id, level) for level in found]
        for _ in range(_DEEP):
            above = waiting.lower_levels(tx, above)
            found += above
        self._deepest = {level.autocluster_id: level for level in above}
        self.board.replace_all(found)
        self._lower_at = time.monotonic()

    def settle(self, outcome: Outcome, stock: Backlog, drained: Iterable[Key]) -> frozenset[int]:
        """Take in what was found drained, before it is committed; the autoclusters that lacked jobs."""
        gone = set(outcome.drained)
        for key in set(drained) - gone:
            level = self.board.get(key)
            self.board.drop(*key)
            gone.add(key)
            lower = None if level is None else stock.after(level)
            if lower is not None and self._is_new(lower, gone):
                self.board.put(lower)
        return frozenset(autocluster_id for autocluster_id, _ in gone)

    def _is_new(self, level: Level, gone: Collection[Key]) -> bool:
        key = level.autocluster_id, level.priority
        return key not in gone and self.board.get(key) is None

    def learn(self, hints: Mapping[Key, int], spared: Iterable[Level]) -> None:
        """What was planned is committed, but for jobs of the levels `spared`: they are still where they were."""
        self.hints |= hints
        for level in spared:
            self.hints.pop((level.autocluster_id, level.priority), None)
            self.board.put(level)
        self.is_sure = True

    def know(self, tx: Transaction, autocluster_ids: Iterable[int]) -> None:
        """Have these on the board, if they wait: what is missing there may only be news that others had."""
        missing = {autocluster_id for autocluster_id in autocluster_ids if not self.board.of(autocluster_id)}
        if missing:
            self._read(tx, missing)

    def read_others(self, tx: Transaction) -> None:
        """Know what else waits: autoclusters that are not on the board. For the question whether a slot has nothing
        to do that is all, since jobs of one autocluster want the same, and it costs little."""
        on_board = {level.autocluster_id for level in self.board.levels()}
        for level in waiting.heads(tx, self.requirements, but=on_board):
            self._heads[level.autocluster_id] = level
            self.board.put(level)

    def _read(self, tx: Transaction, autocluster_ids: set[int]) -> None:
        for key in [key for key in self.hints if key[0] in autocluster_ids]:
            del self.hints[key]
        found = {level.autocluster_id: level for level in waiting.heads(tx, self.requirements, autocluster_ids)}
        self._heads |= found
        for autocluster_id in autocluster_ids:
            head = found.get(autocluster_id)
            for level in self.board.of(autocluster_id):
                if not _is_below(level, head):
                    self.board.drop(autocluster_id, level.priority)
            if head is not None:
                self.board.put(head)


def _is_below(level: Level, head: Level | None) -> bool:
    return head is not None and level.priority < head.priority


class _Memories(threading.local):
    """One for each database that a thread works with; a worker process has one thread and one database."""

    def __init__(self) -> None:
        self.by_url: OrderedDict[str, Memory] = OrderedDict()


_memories = _Memories()


def memory_of(database: Database) -> Memory:
    """What this thread remembers of the database."""
    found = _memories.by_url.setdefault(database.url, Memory())
    _memories.by_url.move_to_end(database.url)
    while len(_memories.by_url) > _MOST:
        _memories.by_url.popitem(last=False)
    return found
