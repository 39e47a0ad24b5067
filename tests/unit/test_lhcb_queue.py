"""LHCb's queue as the benchmark of matching builds it: what its tables count, it has."""

from __future__ import annotations

from collections import Counter

import pytest

from schemas.nodes import slot_resource
from schemas.requirements import Requirement, fits
from schemas.rooms import Room
from tests.benchmarks import lhcb_queue
from tests.benchmarks.lhcb_tables import Count, counts, rows, task_queues
from tests.benchmarks.matching_world import World


@pytest.fixture(scope="module")
def world() -> World:
    return lhcb_queue.build()


def _requirements(world: World) -> list[Requirement]:
    return [Requirement.model_validate(cluster.wish) for cluster in world.clusters]


def test_it_has_as_many_jobs_autoclusters_and_sites_as_the_overview_says(world: World) -> None:
    (overview,) = rows("scale_overview")
    kinds = {
        (requirement.signature(), cluster.group, cluster.owner, cluster.job_type)
        for requirement, cluster in zip(_requirements(world), world.clusters, strict=True)
    }
    assert (world.jobs, len(kinds), len(world.sites)) == (871_973, 501, 60)
    assert (world.jobs, len(kinds)) == (int(overview["waiting_jobs"]), int(overview["active_tqs"]))


def test_each_listed_queue_has_its_jobs(world: World) -> None:
    listed = Counter(int(row["n_jobs"]) for row in rows("jobs_per_tq"))
    assert not listed - Counter(cluster.jobs for cluster in world.clusters)
    assert sum(queue.jobs for queue in task_queues()) == world.jobs


def test_cpu_times_and_groups_have_their_queues(world: World) -> None:
    """The three queues that are not listed come on top: of LHCb's data, and a day."""
    times = {int(time): count.queues for time, count in counts("cputime_distribution", "cpu_segment_seconds").items()}
    times[86_400] += 3
    assert Counter(cluster.wish["cpu_work"] for cluster in world.clusters) == times
    owners = Counter({(row["Owner"], row["OwnerGroup"]): int(row["n_tqs"]) for row in rows("owner_distribution")})
    owners["lbprods", "lhcb_data"] += 3
    assert Counter((cluster.owner, cluster.group) for cluster in world.clusters) == owners


def test_large_queues_are_as_many_as_the_histogram_says(world: World) -> None:
    table = counts("tq_size_histogram", "size_bucket")
    assert sum(cluster.jobs > 1_000 for cluster in world.clusters) == table["1001-5000"].queues
    assert sum(100 < cluster.jobs <= 1_000 for cluster in world.clusters) == table["101-1000"].queues


def test_it_is_the_same_each_time(world: World) -> None:
    assert lhcb_queue.build() == world


def test_each_site_is_named_by_as_many_queues_as_its_row_says(world: World) -> None:
    named = Counter(site for cluster in world.clusters for site in cluster.wish["sites"])
    assert named == {site: count.queues for site, count in counts("site_distribution", "site").items()}
    assert [cluster.jobs for cluster in world.clusters if not cluster.wish["sites"]] == [7]


def test_job_types_have_their_queues_and_nearly_their_jobs(world: World) -> None:
    """The three queues that are not listed come on top."""
    found = {job_type: _count(world, job_type) for job_type in {cluster.job_type for cluster in world.clusters}}
    table = counts("jobtype_distribution", "job_type")
    assert found.pop("WGProduction").queues == table.pop("WGProduction").queues + 3
    assert {name: count.queues for name, count in found.items()} == {name: c.queues for name, c in table.items()}
    for name, count in found.items():
        assert count.jobs == pytest.approx(table[name].jobs, rel=0.01, abs=5)


@pytest.mark.parametrize(
    ("tags", "level", "platform"),
    [
        ("os:slc6", 1, "core2-any"),
        ("os:centos7", 2, "x86_64_v2-centos7"),
        ("os:el9", 2, "nehalem-el9"),
        ("os:el9 & armv8.1", None, "armv8.1_a-any"),
    ],
    ids=["slc6", "centos7", "el9", "arm"],
)
def test_platforms_have_their_queues_and_nearly_their_jobs(
    world: World, tags: str, level: int | None, platform: str
) -> None:
    found = [
        cluster.jobs
        for cluster in world.clusters
        if cluster.wish.get("tags") == tags and cluster.wish["architecture"].get("level", {}).get("min") == level
    ]
    wanted = counts("platform_distribution", "platform")[platform]
    assert len(found) == wanted.queues
    assert sum(found) == pytest.approx(wanted.jobs, rel=0.01)


def test_each_autocluster_fits_somewhere(world: World) -> None:
    resources = []
    for farm in world.farms:
        declared = farm.declared()
        whole = Room(declared.cores, declared.memory, declared.disk, 0)
        resources.append(slot_resource(farm.site, declared, None, whole))
    stuck = [r for r in _requirements(world) if not any(fits(r, resource) for resource in resources)]
    assert not stuck


def _count(world: World, job_type: str) -> Count:
    sizes = [cluster.jobs for cluster in world.clusters if cluster.job_type == job_type]
    return Count(len(sizes), sum(sizes))
