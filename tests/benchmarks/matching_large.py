"""A queue of ten million jobs, as skewed as LHCb's but with ten times the autoclusters and sites, and with tags.

Seven in ten autoclusters run at nearly every site; the others name sites, large ones more often. Half want tags,
three in ten of those by an expression. One in thirty wants several cores; memory comes as a whole, or as overhead and
per core; some have alternatives, some want a GPU. Nothing here is measured anywhere: it is LHCb's shape, widened to
what DiracX sets as its target (1,000 sites, several hundred tags).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from tests.benchmarks.matching_world import Cluster, Farm, Wish, World, scaled

SEED = 20260611
TAGS = tuple(f"{kind}:{number}" for kind, many in (("cvmfs", 60), ("soft", 175), ("net", 40), ("policy", 20))
             for number in range(many))  # fmt: skip
GROUPS = {"production": 3, "reprocessing": 2, "analysis": 24, "upgrade": 4, "open-data": 2, "calibration": 3, "ml": 8}
"""Groups of the VO, and how many owners each has."""
SYSTEMS = ("el8", "el9", "el10", "ubuntu24", "ubuntu26")
_GROUP_PART = {
    "production": 40,
    "reprocessing": 20,
    "analysis": 25,
    "upgrade": 6,
    "open-data": 3,
    "calibration": 3,
    "ml": 3,
}
"""Autoclusters in a hundred."""
_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Size:
    """How large a queue is to be."""

    jobs: int
    clusters: int
    sites: int


LARGE = Size(10_000_000, 5_500, 1_000)


def build(size: Size = LARGE, name: str = "large") -> World:
    """A queue of that size, the same at each call."""
    random = Random(SEED)
    sites = [f"SITE-{number:04}" for number in range(size.sites)]
    weights = [1 / (number + 10) for number in range(size.sites)]
    farms = tuple(farm for site, weight in zip(sites, weights, strict=True) for farm in _farms(site, weight, random))
    sizes = scaled((random.lognormvariate(0, 2) for _ in range(size.clusters)), size.jobs)
    clusters = tuple(_cluster(jobs, sites, weights, random) for jobs in sizes)
    return World(name, clusters, farms)


def _farms(site: str, weight: float, random: Random) -> list[Farm]:
    """One or two kinds of nodes, with pilots of eight cores."""
    common = [tag for tag in TAGS if random.random() < _prevalence(tag)]
    return [
        Farm(site, f"queue{number}", _entry(common, random), weight * part)
        for number, part in enumerate(random.choice(((1.0,), (0.7, 0.3))))
    ]


def _prevalence(tag: str) -> float:
    """The share of sites that have a tag: the first ones of a kind nearly all, the last ones few."""
    return max(0.95 - int(tag.partition(":")[2]) / 60, 0.05)


def _entry(tags: list[str], random: Random) -> dict[str, Any]:
    is_arm = random.random() < 0.08
    level = random.choices((2, 3, 4), (10, 45, 45))[0]
    entry: dict[str, Any] = {
        "cores": 8,
        "memory": 8 * random.choice((2_000, 2_500, 4_000)),
        "disk": 160_000,
        "wall_time": random.choice((24, 48, 96)) * _HOUR,
        "architecture": {"name": "aarch64"} if is_arm else {"name": "x86_64", "level": level},
        "power": random.choice((10, 12, 15, 20)),
        "system": {"name": "linux", "glibc": random.choice(("2.28", "2.34", "2.39")), "user_namespaces": True},
        "io": {"scratch": random.choice((100, 400, 1_500)), "lan": random.choice((100, 1_000))},
        "tags": [*tags, *(f"os:{system}" for system in random.sample(SYSTEMS, random.randint(2, 5)))],
    }
    if random.random() < 0.04:
        entry["gpu"] = {"count": 4, "memory": random.choice((16_000, 40_000)), "vendor": "nvidia"}
    return entry


def _cluster(jobs: int, sites: list[str], weights: list[float], random: Random) -> Cluster:
    group = random.choices(tuple(_GROUP_PART), tuple(_GROUP_PART.values()))[0]
    return Cluster(
        group=group,
        owner=f"{group}-{min(int(random.expovariate(1.5)), GROUPS[group] - 1)}",
        job_type=random.choices(("simulation", "reconstruction", "analysis", "merge"), (50, 20, 25, 5))[0],
        wish=_wish(sites, weights, random),
        batches=_batches(jobs, random),
    )


def _batches(jobs: int, random: Random) -> tuple[tuple[int, int], ...]:
    """One campaign, or two or three, with priorities of their own where there are several."""
    parts = min(random.choices((1, 2, 3), (70, 20, 10))[0], jobs)
    cuts = sorted(random.sample(range(1, jobs), parts - 1))
    counts = [stop - start for start, stop in zip([0, *cuts], [*cuts, jobs], strict=True)]
    priorities = sorted((random.choice((0, 0, 0, 5, -5)) for _ in counts), reverse=True)
    return tuple(zip(priorities, counts, strict=True))


def _wish(sites: list[str], weights: list[float], random: Random) -> Wish:
    wish: Wish = {
        "wall_time": random.choice((1, 2, 4, 8, 12, 20)) * _HOUR + random.randrange(3_000),
        "memory": random.choice((1_000, 2_000, 2_000, 2_000, 2_500)),
        "disk": random.choice((1_000, 5_000, 10_000)),
    }
    if random.random() < 0.3:
        wish["sites"] = sorted(set(random.choices(sites, weights, k=random.randint(1, 40))))
    elif random.random() < 0.1:
        wish["banned_sites"] = random.sample(sites[:50], 3)
    if random.random() < 0.5:
        wish["tags"] = _tags(random)
    if random.random() < 0.6:
        wish["architecture"] = {"name": "x86_64", "level": {"min": random.choice((1, 2, 2, 3))}}
    if random.random() < 0.2:
        wish["system"] = {"glibc": random.choice(("2.17", "2.28", "2.34"))}
    if random.random() < 0.3:
        wish["cpu_work"] = wish["wall_time"] * 8
    return wish | _rare(wish, random)


def _tags(random: Random) -> Any:
    """Two tags that most sites have, or an expression over some that fewer have."""
    usual = [random.choice(("cvmfs:0", "cvmfs:1", "soft:0", "soft:1", "net:0")), f"os:{random.choice(SYSTEMS)}"]
    if random.random() < 0.7:
        return usual
    one, other = random.sample(TAGS[:200], 2)
    return f"{usual[0]} & ({usual[1]} | {one}) & ~({other} & policy:19)"


def _rare(wish: Wish, random: Random) -> Wish:
    """What one autocluster in so many wants."""
    kind = random.random()
    if kind < 0.02:
        return {"cores": 8, "memory": {"overhead": 1_000, "per_core": 1_500}}
    if kind < 0.035:
        return {"cores": {"min": 2, "max": 8}, "memory": {"overhead": 500, "per_core": 1_500}}
    if kind < 0.065:
        slower = {"wall_time": 2 * wish["wall_time"], "architecture": {"name": "aarch64"}}
        return {"any_of": [{"memory": wish["memory"]}, slower]}
    if kind < 0.07:
        return {"gpu": {"count": 1, "memory": 16_000, "vendor": "nvidia"}}
    if kind < 0.1:
        return {"io": {"scratch": 400}}
    return {}
