"""What waits, laid out for the search: by VO, group, owner and shape, each in order."""

from __future__ import annotations

from collections.abc import Iterable

from executors.matching.eligibility import Eligibility
from pipeline.store.match_rows import Level


class Board:
    """The levels that wait, at most one per autocluster and priority. One per process, kept across rounds."""

    def __init__(self, eligibility: Eligibility) -> None: ...

    def put(self, level: Level) -> None:
        """Add a level, or replace the one of the same autocluster and priority."""

    def drop(self, autocluster_id: int, priority: int | None = None) -> None:
        """Take away one level of an autocluster, or all of them; no matter if there is none."""

    def replace_all(self, levels: Iterable[Level]) -> None:
        """Have exactly these levels; what stays the same costs little."""

    def settle(self, heads: Iterable[Level], drained: Iterable[tuple[int, int]], lower: Iterable[Level]) -> None:
        """Take in what a round did, after its commit: see `rounds.Outcome`."""

    def levels(self) -> Iterable[Level]:
        """All of them, in no order."""
        raise NotImplementedError

    def of(self, autocluster_id: int) -> tuple[Level, ...]:
        """Those of one autocluster, the highest priority first."""
        raise NotImplementedError
