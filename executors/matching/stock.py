"""The waiting jobs as a round takes them: few statements, whatever the number of levels.

Jobs of one level are alike, so a round may plan with jobs that it has not seen; all that were planned are then locked
by one statement. What turns out not to be there is planned anew; after some plannings, jobs are only believed to be
there in levels that had plenty when they were looked at last: otherwise many small levels would take a planning each.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from executors.matching.memory import Key, Memory
from executors.matching.rounds import Match
from pipeline.store import waiting
from pipeline.store.database import Transaction
from pipeline.store.jobs import JobRow
from pipeline.store.match_rows import Level
from pipeline.store.waiting import Portion

PLENTY = 16
"""A level of which so many jobs could be had is believed to have more."""

CREDULOUS = 4
"""Plannings that believe in jobs of every level."""


class Stock:
    """A round's Backlog, over what one transaction locks."""

    def __init__(self, tx: Transaction, memory: Memory) -> None:
        self._tx = tx
        self._memory = memory
        self._locked: defaultdict[Key, list[JobRow]] = defaultdict(list)
        """Not matched yet."""
        self._last: dict[Key, int] = {}
        """Where locking goes on."""
        self._behind: dict[Key, tuple[int, int]] = {}
        """Where jobs may have come back that are not locked yet: after the one id, up to the other."""
        self._exhausted: set[Key] = set()
        self._came_back: set[Key] = set()
        """Levels whose jobs are not taken in order of their ids any more."""
        self._plans = 0
        self._given: Counter[Key] = Counter()
        """Jobs that the present planning was given."""
        self._matched: dict[Key, int] = {}
        self.doomed: list[JobRow] = []
        """Jobs that were met and are to be killed."""

    def begin(self) -> None:
        """A new planning begins: what was locked and not matched can be given again."""
        self._plans += 1
        self._given.clear()

    def take(self, level: Level, most: int) -> Sequence[JobRow]:
        """As `Backlog.take` promises. Jobs that are not locked yet have no more than an id, the least they can have."""
        key = (level.autocluster_id, level.priority)
        given, locked = self._given[key], self._locked[key]
        is_believed = self._plans <= CREDULOUS or key in self._memory.deep
        if len(locked) - given < most and key not in self._exhausted and not is_believed:
            self._lock([(level, max(most - (len(locked) - given), PLENTY))])
        found = locked[given : given + most]
        if len(found) < most and key not in self._exhausted:
            first = self._after(level) + 1 + max(given - len(locked), 0)
            found = found + [_unseen(first + place) for place in range(most - len(found))]
        self._given[key] += len(found)
        return found

    def after(self, level: Level) -> Level | None:
        """As `Backlog.after` promises."""
        return waiting.next_level(self._tx, level)

    def fill(self, matches: Sequence[Match]) -> list[Match]:
        """The planned matches with locked jobs; without those for which there is none."""
        planned: defaultdict[Key, list[Match]] = defaultdict(list)
        for match in matches:
            planned[match.level.autocluster_id, match.level.priority].append(match)
        lacking = {key: len(mine) - len(self._locked[key]) for key, mine in planned.items()}
        self._lock([(planned[key][0].level, most) for key, most in lacking.items() if most > 0])
        jobs = {key: iter(self._locked[key]) for key in planned}
        filled = []
        for match in matches:
            key = (match.level.autocluster_id, match.level.priority)
            job = next(jobs[key], None)
            if job is not None:
                filled.append(Match(job, match.level, match.place, match.grant, match.alternative))
                if job.id > self._matched.get(key, 0):
                    self._matched[key] = job.id
        for key, left in jobs.items():
            self._locked[key] = list(left)
        return filled

    def drained(self) -> frozenset[Key]:
        """Levels of which no more jobs are to be had."""
        return frozenset(key for key in self._exhausted if not self._locked[key])

    def hints(self) -> dict[Key, int]:
        """Where to go on after the commit, by level."""
        return {key: last for key, last in self._matched.items() if key not in self._exhausted | self._came_back}

    def _lock(self, wanted: Iterable[tuple[Level, int]]) -> None:
        portions = [
            Portion(level, most, after=self._after(level))
            for level, most in wanted
            if (level.autocluster_id, level.priority) not in self._exhausted
        ]
        lacking = self._receive(portions)
        # Jobs may have come back behind the hint: no level is short before that is known.
        again = [self._portion_behind(_key(portion), portion.level, lacking) for portion in portions]
        behind = [portion for portion in again if portion is not None]
        self._came_back |= {_key(portion) for portion in behind}
        lacking |= {_key(portion): 0 for portion in behind} | self._receive(behind)
        for portion in behind:
            key = _key(portion)
            if lacking[key]:
                del self._behind[key]
        for key, most in lacking.items():
            self._memory.deep.discard(key)
            if most:
                self._exhausted.add(key)

    def _portion_behind(self, key: Key, level: Level, lacking: Mapping[Key, int]) -> Portion | None:
        """What is lacking, of those behind the hint; None where nothing is, or where there was no hint."""
        if key not in lacking:
            return None
        hint = self._memory.hints.pop(key, 0)
        if hint:
            self._behind[key] = 0, hint
            self._last[key] = max(self._last.get(key, 0), hint)
        if key not in self._behind:
            return None
        after, until = self._behind[key]
        return Portion(level, lacking[key], after=after, until=until)

    def _receive(self, portions: Sequence[Portion]) -> dict[Key, int]:
        """How many are lacking, by level."""
        if not portions:
            return {}
        lacking: dict[Key, int] = {}
        for portion, found in zip(portions, waiting.take(self._tx, portions), strict=True):
            key = _key(portion)
            self.doomed += [job for job in found if job.kill_requested]
            self._locked[key] += sorted((job for job in found if not job.kill_requested), key=attrgetter("id"))
            if found:
                self._go_on(key, max(job.id for job in found))
            if len(found) < portion.most:
                lacking[key] = portion.most - len(found)
            elif portion.most >= PLENTY:
                self._memory.deep.add(key)
        return lacking

    def _go_on(self, key: Key, last_id: int) -> None:
        behind = self._behind.get(key)
        if behind is not None and last_id <= behind[1]:
            self._behind[key] = last_id, behind[1]
        self._last[key] = max(self._last.get(key, 0), last_id)

    def _after(self, level: Level) -> int:
        key = (level.autocluster_id, level.priority)
        return self._last.get(key, self._memory.hints.get(key, 0))


def _key(portion: Portion) -> Key:
    return portion.level.autocluster_id, portion.level.priority


def _unseen(job_id: int) -> JobRow:
    """Some job of a level, none of the others before it; nothing else is known of it, so nothing else is set."""
    job = object.__new__(JobRow)
    object.__setattr__(job, "id", job_id)
    return job
