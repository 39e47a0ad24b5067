"""Matching at 10 thousand, 872 thousand and 10 million waiting jobs: the whole path, from an offer to the commit.

Ten thousand: a queue like the large one, with the same sites and a tenth of its autoclusters, kept at ten thousand
as jobs are matched. 872 thousand: LHCb's queue of 2026-03-28. Ten million: the large queue, with as many jobs more as
its runs match, so that ten million wait at the end too. Pilots of eight cores of all sites offer themselves, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.store.database import Database
from tests.benchmarks import lhcb_queue, matching_large
from tests.benchmarks.figures import Figure
from tests.benchmarks.matching_company import Chunk, add_waiting, chunks
from tests.benchmarks.matching_large import Size
from tests.benchmarks.matching_loading import Loaded, load
from tests.benchmarks.matching_report import figures_of, ratio
from tests.benchmarks.matching_runs import Result, Run, perform
from tests.benchmarks.matching_server import DURABLE, MatchingServer, running_server
from tests.benchmarks.matching_world import World

LEAST_RATE = 5_000.0
"""Matches/s that are expected at ten million."""
LEAST_RATIO, LEAST_RATIO_WITH_SNAPSHOT = 0.7, 0.5
"""Of the rate at ten thousand: expected at ten million, and there with a dump's snapshot held open."""
_LARGE_RUNS, _SHORT_RUNS = 4, 2
_POOL, _SMALL_POOL = "1G", "128M"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: the fields are named for the full scale."""

    pops: int
    ten_thousand: int
    short: Size
    large: Size
    lhcb: Callable[[], World]

    def spare(self, runs: int) -> int:
        """Jobs that so many runs match, with a margin."""
        return runs * (self.pops + self.pops // 10)


FULL = Scale(300_000, 10_000, Size(10_000, 500, 1_000), matching_large.LARGE, lhcb_queue.build)
SMALL = Scale(
    pops=20_000,
    ten_thousand=5_000,
    short=Size(5_000, 300, 200),
    large=Size(200_000, 1_000, 200),
    lhcb=lambda: matching_large.build(Size(90_000, 300, 60), "LHCb's place"),
)


def measure() -> list[Figure]:
    """At full scale: some twenty minutes and 20 GB of disk."""
    return _measure(FULL)


def measure_small() -> list[Figure]:
    """At a small scale, to see that all works: these rates say little."""
    return _measure(SMALL)


@dataclass(slots=True)
class _Short:
    """A short backlog: what waits, and the jobs that are there to follow."""

    loaded: Loaded
    left: list[Chunk] = field(default_factory=list)

    def prepare(self, many: int) -> None:
        """Let so many wait."""
        self.left = chunks(self.loaded.batches, many)
        first: list[Chunk] = []
        while sum(chunk.jobs for chunk in first) < many:
            first.append(self.left.pop(0))
        database = Database(self.loaded.database_url)
        add_waiting(database, first)
        database.close()

    def fed(self, many: int) -> None:
        """So many more wait by now."""
        while many > 0:
            many -= self.left.pop(0).jobs


def _measure(scale: Scale) -> list[Figure]:
    long = _larger(scale.large, scale.spare(_LARGE_RUNS))
    with running_server(long.jobs + 3_000_000) as server:
        large = load(server.new_database(), matching_large.build(long))
        queues = [load(server.new_database(), scale.lhcb()) for _ in range(2)]
        size = _larger(scale.short, scale.spare(_SHORT_RUNS))
        short = _Short(load(server.new_database(), matching_large.build(size, "short"), is_waiting=False))
        short.prepare(scale.ten_thousand)
        server.start_with(f"--innodb-buffer-pool-size={_POOL}", *DURABLE)
        loading = [
            Figure(f"loading, {loaded.world.name}", f"{loaded.jobs:,} jobs", loaded.jobs / loaded.seconds, "jobs/s")
            for loaded in (large, queues[0])
        ]
        return [*loading, *_all_runs(server, scale, large, queues, short)]


def _larger(size: Size, jobs: int) -> Size:
    return Size(size.jobs + jobs, size.clusters, size.sites)


def _all_runs(
    server: MatchingServer, scale: Scale, large: Loaded, queues: list[Loaded], short: _Short
) -> Iterator[Figure]:
    names = {"short": f"{scale.ten_thousand:,} waiting", "lhcb": f"{queues[0].jobs:,} waiting"}
    names["large"] = f"{scale.large.jobs:,} waiting"
    base = _short_run(server, scale, short, names["short"], is_churning=False)
    yield from figures_of(base)
    lhcb = perform(server, Run(names["lhcb"], queues[0], scale.pops))
    yield from (*figures_of(lhcb), ratio(lhcb, base))
    plain = perform(server, Run(names["large"], large, scale.pops))
    yield from (*figures_of(plain, LEAST_RATE), ratio(plain, base, LEAST_RATIO))

    yield from figures_of(_short_run(server, scale, short, f"{names['short']}, with churn", is_churning=True))
    yield from figures_of(perform(server, Run(f"{names['lhcb']}, with churn", queues[1], scale.pops, is_churning=True)))
    churned = perform(server, Run(f"{names['large']}, with churn", large, scale.pops, is_churning=True))
    yield from (*figures_of(churned), ratio(churned, base))

    server.purged()
    held = perform(server, Run(f"{names['large']}, with a snapshot held", large, scale.pops, has_snapshot=True))
    yield from (*figures_of(held), ratio(held, base, LEAST_RATIO_WITH_SNAPSHOT))
    server.purged()
    server.start_with(f"--innodb-buffer-pool-size={_SMALL_POOL}", *DURABLE)
    small = perform(server, Run(f"{names['large']}, buffer pool {_SMALL_POOL}", large, scale.pops))
    yield from (*figures_of(small), ratio(small, base))


def _short_run(server: MatchingServer, scale: Scale, short: _Short, name: str, *, is_churning: bool) -> Result:
    run = Run(name, short.loaded, scale.pops, tuple(short.left), is_churning=is_churning)
    result = perform(server, run)
    short.fed(result.fed)
    return result
