"""What executors count while they run: nobody scrapes their worker, so the consumer adds it to its own metrics.

It travels with the report of a batch: numbers and words, and nothing when nothing was counted. What a worker counted
that was killed is lost, which a total of the whole system may not be: those are counted in the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Counter

from pipeline.metrics import CARRIED


@dataclass(frozen=True, slots=True)
class Counted:
    """Values of one metric (by its key in `CARRIED`) and one set of labels: to be added, or observed one by one."""

    metric: str
    labels: tuple[str, ...]
    values: tuple[float, ...]


class Tally:
    """Gathers what one batch counts."""

    def __init__(self) -> None:
        self._values: defaultdict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(list)

    def note(self, metric: str, *labels: str, value: float = 1.0) -> None:
        """Add to a counter, or observe. Raises KeyError for a metric that is not carried."""
        CARRIED[metric]
        self._values[metric, labels].append(value)

    def take(self) -> tuple[Counted, ...]:
        """What was gathered since the last time."""
        taken, self._values = self._values, defaultdict(list)
        return tuple(Counted(metric, labels, tuple(values)) for (metric, labels), values in taken.items())


def carry(counted: Iterable[Counted]) -> None:
    """Add what another process counted to this one's metrics."""
    for one in counted:
        metric = CARRIED[one.metric]
        if isinstance(metric, Counter):
            metric.labels(*one.labels).inc(sum(one.values))
        else:
            for value in one.values:
                metric.labels(*one.labels).observe(value)
