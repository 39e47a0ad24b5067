"""Offers driven through matching in a closed loop: each pilot offers once, and a bounded number of offers is out.

An offer is published as the API publishes it, one message for one pilot. It counts as answered when a look at
`slots` no longer finds it `offered`, so a latency runs from before the publication to after the commit, and is too long
by up to one look's distance.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from pipeline.store.database import Database, in_chunks
from pipeline.store.tables import jobs, slots
from pipeline.transport.port import Transport
from schemas.messages import SlotsOffered, about_ids
from tests.benchmarks.matching_measuring import Answer, Record

OUTSTANDING = 400
"""Offers that are out at a time: two batches of 100 for each of two consumers."""
_LOOK = 0.02
_LOOK_AT_PARKED = 0.5
_PATIENCE = 60.0
"""Seconds without any match after which a run has failed."""

OnMatches = Callable[[int], None]


@dataclass(slots=True)
class Driver:
    """Offers pilots one after the other until `wanted` jobs are matched, or all pilots have some."""

    database: Database
    transport: Transport
    pilot_ids: Iterable[int]
    wanted: int
    on_matches: OnMatches = lambda _: None
    """Told how many jobs are matched so far, at each look."""
    check: Callable[[], None] = lambda: None
    """Raises when the consumers are gone."""
    record: Record = field(default_factory=Record)
    matched: int = 0
    _left: deque[int] = field(default_factory=deque)
    _out: dict[int, float] = field(default_factory=dict)
    _parked: dict[int, float] = field(default_factory=dict)

    def run(self) -> Record:
        """Everything that was answered. Raises AssertionError when nothing is for long."""
        self._left.extend(self.pilot_ids)
        pause = threading.Event()
        last, next_parked = time.perf_counter(), 0.0
        with self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while self.matched < self.wanted and (self._left or self._out or self._parked):
                self._offer()
                pause.wait(_LOOK)
                before = self.matched
                self._look(connection)
                now = time.perf_counter()
                if now > next_parked:
                    self._look_at_parked(connection)
                    next_parked = now + _LOOK_AT_PARKED
                    self.check()
                self.on_matches(self.matched)
                last = now if self.matched > before else last
                assert now - last < _PATIENCE, f"nothing was matched for {_PATIENCE:g} s, after {self.matched:,} jobs"
        return self.record

    def settle(self) -> None:
        """Wait until no offer is out any more."""
        deadline = time.perf_counter() + _PATIENCE
        pause = threading.Event()
        with self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while self._out:
                pause.wait(_LOOK)
                self._look(connection)
                assert time.perf_counter() < deadline, f"{len(self._out)} offers were not answered"

    def _offer(self) -> None:
        fresh = [self._left.popleft() for _ in range(min(OUTSTANDING - len(self._out), len(self._left)))]
        if not fresh:
            return
        now = time.perf_counter()
        self._out |= dict.fromkeys(fresh, now)
        clock = self.database.clock()
        self.transport.publish([m for pilot_id in fresh for m in about_ids(SlotsOffered, [pilot_id], now=clock)])

    def _look(self, connection: Connection) -> None:
        out = sorted(self._out)
        query = select(slots.c.pilot_id, slots.c.state).where(slots.c.pilot_id.in_(out), slots.c.state != "offered")
        answered = {row.pilot_id: row.state for row in connection.execute(query)} if out else {}
        if not answered:
            return
        at = time.perf_counter()
        counts = _jobs_of(connection, [pilot for pilot, state in answered.items() if state == "served"])
        for pilot_id, state in answered.items():
            published = self._out.pop(pilot_id)
            if state != "served":
                self.record.parked += 1
                self._parked[pilot_id] = published
            self._note(Answer(at, at - published, counts.get(pilot_id, 0)))

    def _look_at_parked(self, connection: Connection) -> None:
        """Jobs that came later than the offer: they count as matches, but the offer had its answer before."""
        for some in in_chunks(sorted(self._parked)):
            served = select(slots.c.pilot_id).where(slots.c.pilot_id.in_(some), slots.c.state == "served")
            pilot_ids = [row.pilot_id for row in connection.execute(served)]
            at = time.perf_counter()
            for pilot_id, count in _jobs_of(connection, pilot_ids).items():
                del self._parked[pilot_id]
                self._note(Answer(at, None, count))

    def _note(self, answer: Answer) -> None:
        self.matched += answer.jobs
        self.record.answers.append(answer)


def _jobs_of(connection: Connection, pilot_ids: Sequence[int]) -> dict[int, int]:
    if not pilot_ids:
        return {}
    query = select(jobs.c.pilot_id, func.count().label("many")).where(jobs.c.pilot_id.in_(pilot_ids))
    return {row.pilot_id: row.many for row in connection.execute(query.group_by(jobs.c.pilot_id))}
