"""LHCb's production queue of 2026-03-28: 871,973 waiting jobs, 501 autoclusters, 60 sites.

`lhcb/README.md` says which table decides what, and what none of them decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tests.benchmarks.lhcb_tables import Count, TaskQueue, choose, counts, rows, task_queues
from tests.benchmarks.matching_world import Cluster, Farm, Wish, World

SEED = 20260328
SIMULATION, DATA, RECONSTRUCTION, USERS = "lhcb_mc", "lhcb_data", "lhcb_mcproc", "lhcb_user"
_BY_PRIORITY = {
    "2764.98": "Sprucing",
    "3686.64": "Merge",
    "460.829": "APMerge",
    "1382.49": "APPostProc",
    "18181.8": "MCMerge",
}
"""Priorities whose queues hold just as many jobs as one job type."""
_USUAL = {SIMULATION: "MCSimulation", DATA: "WGProduction", RECONSTRUCTION: "MCReconstruction", USERS: "User"}
_ANYWHERE_JOBS, _BANNING_JOBS = 7, 5
_POWER = 10
"""HS06 of one core of the nodes that wall times are made for."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One of the sets that LHCb's platforms fall into."""

    architecture: Wish
    tags: str


_X86_1 = Platform({"name": "x86_64", "level": {"min": 1}}, "os:slc6")
_X86_2_OLD = Platform({"name": "x86_64", "level": {"min": 2}}, "os:centos7")
_X86_2 = Platform({"name": "x86_64", "level": {"min": 2}}, "os:el9")
_X86_3 = Platform({"name": "x86_64", "level": {"min": 3}}, "os:el9")
_ARM = Platform({"name": "aarch64"}, "os:el9 & armv8.1")


def build() -> World:
    """The queue and the sites, the same at each call."""
    random = Random(SEED)
    queues = task_queues()
    fast = _ids(choose(_of(queues, SIMULATION), counts("jobtype_distribution", "job_type")["MCFastSimulation"], random))
    platforms = _platforms(queues, random)
    sites = _sites(queues, random)
    bans = _bans(queues)
    clusters = [
        Cluster(
            group=queue.group,
            owner=_owner(queue),
            job_type="MCFastSimulation" if queue.id in fast else _job_type(queue),
            wish=_wish(queue, platforms.get(queue.id), sites[queue.id], bans.get(queue.id, ())),
            batches=((0, queue.jobs),),
        )
        for queue in queues
    ]
    return World("LHCb", tuple(clusters), tuple(_farms()))


def _of(queues: Sequence[TaskQueue], group: str) -> list[TaskQueue]:
    """The listed queues of a group."""
    return [queue for queue in queues if queue.group == group and queue.id > 0]


def _ids(queues: Sequence[TaskQueue]) -> set[int]:
    return {queue.id for queue in queues}


def _job_type(queue: TaskQueue) -> str:
    if queue.group == USERS and queue.cpu_time == 86_400:
        return "LbAPI"
    return _BY_PRIORITY.get(queue.priority, _USUAL[queue.group])


def _owner(queue: TaskQueue) -> str:
    if queue.group != USERS:
        return "lbprods"
    return "mmulder" if _job_type(queue) == "LbAPI" else "sharmar"


def _platforms(queues: Sequence[TaskQueue], random: Random) -> Mapping[int, Platform]:
    """By queue; those left out run on any platform."""
    of = counts("platform_distribution", "platform")
    oldest, old, arm = of["core2-any"], of["x86_64_v2-centos7"], of["armv8.1_a-any"]
    simulation = _of(queues, SIMULATION)
    jobs = sum(queue.jobs for queue in simulation)
    newest = Count(len(simulation) - oldest.queues - old.queues, jobs - oldest.jobs - old.jobs)
    found = dict.fromkeys(_ids(simulation), _X86_2_OLD)
    first = _ids(choose(simulation, oldest, random))
    found |= dict.fromkeys(first, _X86_1)
    found |= dict.fromkeys(_ids(choose([q for q in simulation if q.id not in first], newest, random)), _X86_3)
    found |= dict.fromkeys(_ids(_of(queues, DATA) + _of(queues, USERS)), _X86_3)
    found |= dict.fromkeys(_ids(choose(_of(queues, DATA), arm, random)), _ARM)
    found |= dict.fromkeys(_ids(choose(_of(queues, RECONSTRUCTION), of["nehalem-el9"], random)), _X86_2)
    return found


def _sites(queues: Sequence[TaskQueue], random: Random) -> Mapping[int, list[str]]:
    """By queue, the sites that it names: as many queues for each site as in the table; one queue names none."""
    of = counts("site_distribution", "site")
    simulation = _of(queues, SIMULATION)
    named: dict[int, list[str]] = {queue.id: [] for queue in queues}
    others = [queue for queue in queues if queue.group != SIMULATION and queue is not _anywhere(queues)]
    for site, count in sorted(of.items(), key=lambda entry: -entry[1].queues):
        mine = Count(min(count.queues, len(simulation)), min(count.jobs, sum(queue.jobs for queue in simulation)))
        least_named = sorted(others, key=lambda queue: (len(named[queue.id]), random.random()))
        for queue in [*choose(simulation, mine, random), *least_named[: count.queues - mine.queues]]:
            named[queue.id].append(site)
    return named


def _anywhere(queues: Sequence[TaskQueue]) -> TaskQueue:
    """The queue that runs at any site: the one of seven jobs whose priority no other has."""
    (found,) = [queue for queue in queues if queue.jobs == _ANYWHERE_JOBS and queue.priority == "1.0"]
    return found


def _bans(queues: Sequence[TaskQueue]) -> Mapping[int, tuple[str, ...]]:
    """The queue of seven jobs and one of five ban the sites whose rows have that many jobs."""
    of = counts("banned_sites", "banned_site")
    banning = next(queue for queue in queues if queue.jobs == _BANNING_JOBS)
    return {
        queue.id: tuple(site for site, count in of.items() if count.jobs == queue.jobs)
        for queue in (_anywhere(queues), banning)
    }


def _wish(queue: TaskQueue, platform: Platform | None, sites: Sequence[str], banned: Sequence[str]) -> Wish:
    wish: Wish = {
        "cores": 1,
        "memory": 2_000,
        "disk": 5_000,
        "wall_time": queue.cpu_time // _POWER,
        "cpu_work": queue.cpu_time,
        "sites": sorted(sites),
        "banned_sites": sorted(banned),
        "labels": [f"queue:{queue.id}" if queue.id > 0 else f"queue:unlisted-{-queue.id}"],
    }
    if platform is not None:
        wish |= {"architecture": platform.architecture, "tags": platform.tags}
    return wish


def _farms() -> list[Farm]:
    """Four kinds of nodes at each site, with pilots of eight cores; the later a site's row, the smaller the site."""
    containers = ("os:slc6", "os:centos7", "os:el9")
    kinds: tuple[tuple[str, Wish, int, float, tuple[str, ...]], ...] = (
        ("newest", {"name": "x86_64", "level": 4}, 20, 0.5, containers),
        ("newer", {"name": "x86_64", "level": 3}, 15, 0.25, containers),
        ("old", {"name": "x86_64", "level": 2}, 10, 0.1, containers),
        ("arm", {"name": "aarch64"}, 12, 0.15, ("os:el9", "armv8.1")),
    )
    whole = {"cores": 8, "memory": 20_000, "disk": 80_000, "wall_time": 2 * 86_400}
    return [
        Farm(
            site=row["site"],
            queue=name,
            entry={**whole, "architecture": architecture, "power": power, "tags": tags},
            weight=part / (3 + rank),
        )
        for rank, row in enumerate(rows("site_distribution"))
        for name, architecture, power, part, tags in kinds
    ]
