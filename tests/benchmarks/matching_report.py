"""What runs of matching showed, as figures."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.figures import Figure
from tests.benchmarks.matching_runs import Result


def figures_of(result: Result, least: float | None = None) -> Iterator[Figure]:
    """Everything that was measured; `least` matches/s are expected."""
    name, record = result.name, result.record
    yield Figure(name, "matches, sustained", record.rate(), "1/s", least)
    yield Figure(name, "matches, slowest 10 s", record.slowest(), "1/s")
    for words, latency in (("offer", record.per_offer), ("job", record.per_job)):
        for share in (0.5, 0.99):
            yield Figure(name, f"latency per {words}, p{share * 100:g}", 1_000 * latency(share), "ms")
    for party, cores in result.cores.items():
        if cores > 0.0005:
            yield Figure(name, f"processor: {party}", 100 * cores, "% of a core")
    yield Figure(name, "jobs matched", result.matched, "jobs")
    yield Figure(name, "offers that found nothing at once", record.parked, "offers")
    if result.submitted:
        yield Figure(name, "jobs submitted meanwhile, in new autoclusters", result.submitted, "jobs")
        yield Figure(name, "jobs killed meanwhile", result.killed, "jobs")
    yield Figure(name, "InnoDB's history list at the end", result.history, "transactions")


def ratio(result: Result, base: Result, least: float | None = None) -> Figure:
    """One sustained rate over another."""
    return Figure(result.name, f"sustained / {base.name}", result.record.rate() / base.record.rate(), "x", least)
