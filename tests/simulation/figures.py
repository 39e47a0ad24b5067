"""What the figures of a case say: the table, and whether we are as good as we promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.record import Result

OURS = "Penstock"
HALF = 0.5
"""Of the better peer's waste, where bursts or tails are."""
ANYWHERE = 1.1
"""Of it, in any case."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How we compare, in one case, with the peer that wastes least there: by its waste and by its p95 wait."""

    case: str
    ours: Result
    better: Result
    limit: float

    @property
    def ratio(self) -> float:
        """Our waste, in parts of the better peer's."""
        return self.ours.wasted / self.better.wasted if self.better.wasted else 1.0

    @property
    def misses(self) -> tuple[str, ...]:
        """What is not as expected; empty: all is."""
        misses = []
        if self.ratio > self.limit:
            misses.append(f"wastes {self.ratio:.0%} of what {self.better.rules} does, {self.limit:.0%} is the limit")
        if self.ours.p95_wait > self.better.p95_wait:
            misses.append(f"p95 wait {self.ours.p95_wait:.0f} s, {self.better.rules} has {self.better.p95_wait:.0f} s")
        if self.ours.over_cap:
            misses.append(f"over a cap in {self.ours.over_cap} cycles")
        if self.ours.unfinished:
            misses.append(f"{self.ours.unfinished} jobs never ended")
        return tuple(misses)


def judge(results: Sequence[Result], *, half_waste: bool) -> Verdict:
    """The verdict of a case; the better of the peers is the one that wastes least, whatever its waits."""
    ours = next(one for one in results if one.rules == OURS)
    better = min((one for one in results if one.rules != OURS), key=lambda one: one.wasted)
    return Verdict(ours.case, ours, better, HALF if half_waste else ANYWHERE)


def table(results: Sequence[Result]) -> str:
    """One case, a line for each rule set."""
    head = ("rules", "wasted", "by unused", "of held", "median", "p95", "pilots", "no job", "over cap", "lost")
    rows = [
        (
            one.rules,
            f"{one.wasted:,.0f}",
            f"{one.wasted_unused:,.0f}",
            f"{one.wasted / (one.wasted + one.used):.1%}" if one.used else "-",
            f"{one.median_wait:,.0f}",
            f"{one.p95_wait:,.0f}",
            f"{one.pilots:,}",
            f"{one.without_job:,}",
            f"{one.over_cap:,}",
            f"{one.lost_jobs:,}" + (f" ({one.unfinished:,} unfinished)" if one.unfinished else ""),
        )
        for one in results
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in (head, *rows))
    ]
    return "\n".join(lines)


def says(verdict: Verdict) -> str:
    """One line."""
    word = "MISS" if verdict.misses else "PASS"
    better = verdict.better
    line = (
        f"{word} {verdict.case}: {verdict.ratio:.0%} of the waste of {better.rules} (limit {verdict.limit:.0%}), "
        f"p95 wait {verdict.ours.p95_wait:,.0f} s against {better.p95_wait:,.0f} s"
    )
    return "; ".join((line, *verdict.misses)) if verdict.misses else line
