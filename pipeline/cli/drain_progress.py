"""Waiting for a drain: live bars on a terminal, a line per change elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import click
from rich.progress import Progress, TaskID

from pipeline.cli.progress import LOOK, bars, patiently
from pipeline.cli.words import counted
from schemas.drain_views import OF_PROCESSES, DrainReport, DrainState, Thing

KILLED_WITHIN = 600.0
"""Seconds after the deadline within which what is killed should be gone; waiting ends then, killing does not."""
SELDOM = 5
"""Looks at processes in the time of one at jobs, of which there may be many to be counted."""
Look = Callable[[int], DrainReport]


def wait_for_drain(look: Look, begun: DrainReport) -> DrainReport:
    """Show what is left until nothing is, or until the deadline; where what is left is killed then, for ten minutes
    more. The last report. An outage of the API or the database is waited for."""
    if not sys.stderr.isatty():
        return _follow(look, begun, _Lines().show)
    with bars() as progress:
        return _follow(look, begun, _Bars(progress).show)


def in_words(report: DrainReport) -> str:
    """`3 running jobs, 1 running pilot`, or `nothing`: what the drain waits for."""
    counts: Counter[tuple[Thing, str | None]] = Counter()
    for line in report.holding:
        counts[line.what, line.state] += line.count
    words = (
        counted(many, f"{state or ''} {_ONE[what]}".strip(), f"{state or ''} {what}".strip())
        for (what, state), many in counts.items()
    )
    return ", ".join(words) or "nothing"


_ONE = {Thing.JOBS: "job", Thing.PILOTS: "pilot", Thing.MESSAGES: "message", Thing.PROCESSES: "process"}


def _follow(look: Look, report: DrainReport, show: Callable[[DrainReport], None]) -> DrainReport:
    overdue_since: float | None = None
    while True:
        show(report)
        if report.state is DrainState.OVERDUE and report.kills:
            overdue_since = overdue_since or time.monotonic()
            if time.monotonic() - overdue_since > KILLED_WITHIN:
                return report
        elif report.state is not DrainState.DRAINING:
            return report
        time.sleep(LOOK if report.kind in OF_PROCESSES else SELDOM * LOOK)
        report = patiently(partial(look, report.id), "the drain")


class _Lines:
    """A line whenever something has changed."""

    def __init__(self) -> None:
        self._said = ""

    def show(self, report: DrainReport) -> None:
        line = f"{report.label}: {report.state}, {in_words(report)} left"
        if line != self._said:
            self._said = line
            click.echo(line, err=True)


class _Bars:
    """A bar for each kind of thing: full when none is left of the most that were."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[Thing, TaskID] = {}
        self._most: Counter[Thing] = Counter()

    def show(self, report: DrainReport) -> None:
        left: Counter[Thing] = Counter()
        for line in report.holding:
            left[line.what] += line.count
        for what in Thing:
            self._most[what] = max(self._most[what], left[what])
            if self._most[what]:
                self._update(what, left[what], report)

    def _update(self, what: Thing, count: int, report: DrainReport) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what.value, counts="", total=None)
        self._progress.update(
            self._tasks[what],
            total=self._most[what],
            completed=self._most[what] - count,
            counts=f"{count} left" + (", overdue" if report.state is DrainState.OVERDUE else ""),
        )
