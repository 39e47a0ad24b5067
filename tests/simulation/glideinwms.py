"""The rules of GlideinWMS, its Frontend and its Factory, written down from what it publishes; facts, no code.

Sources: the Frontend's configuration page and its defaults (loop_delay 60; idle_glideins_per_entry max 100, reserve 5;
idle_vms_per_entry max 100, curb 5; idle_vms_total max 1,000, curb 200; running_glideins_total max 100,000, curb 90 % of
it; running_glideins_per_entry relative_to_queue 1.15; glideins_removal none); the Factory's (loop_delay 60; submit
cluster_size 10, max_per_cycle 100; max_jobs held 1,000, idle 2,000, running 10,000) and UCSD's page
FactoryLimitsCalculations; the page of glidein variables (GLIDEIN_Max_Idle 1,200, GLIDEIN_Max_Tail 400, graceful
shutdown 120, and the lifetime of a glidein); issues 553 (a third at first), 443 (a request, in numbers), 397
(limits), 405 and 554 (what counts as idle), 282 and 275 (an empty answer is no demand).

Where the documentation is silent, in its favour: what it counts it knows at once; the Factory follows the Frontend
after half of its loop; the collector answers even while the query of the jobs fails (in issue 282 it did not, and every
glidein was removed); what is free of a multi-core glidein counts as idle by its cores; no glidein is ever held.
A submission that fails is tried again in the next cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tests.simulation.pilot import Pilot, Stage
from tests.simulation.rules import Decision, Rules, View
from tests.simulation.world import Case, Group, Queue

LOOP = 60.0
"""loop_delay of both, seconds."""
FACTORY_AFTER = 30.0
"""Seconds from the Frontend's request until the Factory reads it."""
RAMP_UP_ATTENUATION = 3
RESERVE = 5
MOST_IDLE = 100
"""idle_glideins_per_entry, max."""
ABOVE_QUEUE = 1.15
"""running_glideins_per_entry, relative_to_queue."""
MOST_SUBMITTED = 100
"""max_per_cycle of an entry."""
MAX_IDLE = 1_200.0
"""Seconds without a job until a glidein ends that never had one."""
MAX_TAIL = 400.0
"""The same for one that had."""
MARGIN = 370.0 + 120.0
"""Lifetime is the maximum wall time less this and the graceful shutdown."""
LEAST_LIFE = 600.0
"""Nothing starts with less time until it retires."""
EMPTY_CYCLES = 5
"""Cycles without an idle job, after which unsubmitted glideins are surplus."""
UNUSED_CYCLES = 10
"""Cycles without a used glidein, after which those queued at the site are surplus too."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A count, from where on requests are halved, and from where on there are none."""

    count: int
    curb: float
    most: float


def proportional(clusters: list[tuple[int, int, int]], glidein_cores: int) -> int:
    """Glideins that an entry's part of the idle jobs needs: of each cluster (jobs, cores of one, entries that it
    fits) jobs / entries, in cores, over the cores of one of its glideins; the sum is rounded up."""
    return math.ceil(sum(jobs / entries * cores for jobs, cores, entries in clusters) / glidein_cores - 1e-9)


def min_idle(
    idle: int, old_idle: int, registered: Threshold, *, idle_slots: Threshold, totals: tuple[Threshold, ...]
) -> int:
    """Glideins that the Frontend wants waiting at an entry (ReqIdleGlideins).

    `idle`, `old_idle`: glideins that its part of the idle jobs (of those idle for ten minutes) needs beyond idle slots.
    `registered`, `idle_slots`: at the entry; `totals`: over all of them.
    """
    limits = (registered, idle_slots, *totals)
    if idle <= 0 or any(one.count >= one.most for one in limits):
        return 0
    room = min(idle, *(int(one.most - one.count) for one in (registered, *totals)))
    wanted: float = min(int(room / RAMP_UP_ATTENUATION) + min(old_idle // 3, RESERVE), MOST_IDLE)
    for one in limits:
        if one.count >= one.curb:
            wanted /= 2
    return int(max(wanted, 1))


def max_running(idle: int, running: int, idle_slots: int) -> int:
    """Glideins that an entry may have in all (ReqMaxGlideins): a little more than what runs and what waits."""
    if idle > 0:
        return int((max(idle - idle_slots, 0) + running) * ABOVE_QUEUE + 1)
    return running


@dataclass(frozen=True, slots=True)
class Limits:
    """Of an entry: max_jobs, idle and in all, and what is submitted in a cycle."""

    idle: int = 2_000
    total: int = 10_000
    at_once: int = MOST_SUBMITTED


def to_add(wanted_idle: int, most: int, queued: int, running: int, limits: Limits) -> int:
    """Glideins that the Factory submits to an entry: up to the idle ones wanted, within the request and its limits."""
    missing = min(wanted_idle - queued, most - queued - running, limits.idle - queued, limits.total - queued - running)
    return max(min(missing, limits.at_once), 0)


@dataclass(slots=True)
class _Entry:
    """A queue as the Frontend remembers it."""

    queue: Queue
    empty: int = 0
    unused: int = 0
    wanted_idle: int = 0
    most: int = 0
    removes_queued: bool = False


@dataclass(slots=True)
class _Counts:
    """Glideins of one entry."""

    queued: list[Pilot] = field(default_factory=list)
    running: int = 0
    """As the batch system says."""
    registered: int = 0
    used: int = 0
    idle_cores: int = 0


class GlideinWms(Rules):
    """A Frontend with one group, and a Factory with an entry for each queue."""

    name = "GlideinWMS"
    period = FACTORY_AFTER
    margin = MARGIN
    idle_limit = MAX_IDLE
    tail_limit = MAX_TAIL
    least_life = LEAST_LIFE

    def __init__(self, case: Case, *, tracking: bool = False) -> None:
        """`tracking`: glideins_removal with type WAIT, requests_tracking and no margin; by default there is none."""
        self._entries = [_Entry(queue) for queue in case.queues]
        self._most = case.max_pilots
        self._tracking = tracking
        self._calls = 0
        self._fitting: dict[Group, list[int]] = {
            group: [queue.index for queue in case.queues if queue.fits(group, MARGIN)] for group in case.groups
        }
        if tracking:
            self.name = "GlideinWMS tracking"

    def decide(self, view: View) -> Decision:
        """Frontend and Factory by turns."""
        self._calls += 1
        counts = self._count(view)
        if self._calls % 2:
            self._request(view, counts)
            return Decision()
        return self._serve(counts)

    def _count(self, view: View) -> list[_Counts]:
        counts = [_Counts() for _ in self._entries]
        for pilot in view.pilots:
            mine = counts[pilot.queue.index]
            if pilot.is_pending:
                mine.queued.append(pilot)
                continue
            mine.running += 1
            if pilot.stage is not Stage.STARTING:
                mine.registered += 1
                mine.used += bool(pilot.jobs)
                mine.idle_cores += pilot.free
        return counts

    def _request(self, view: View, counts: list[_Counts]) -> None:
        """The Frontend: an empty answer is no demand."""
        clusters: list[list[tuple[int, int, int]]] = [[] for _ in self._entries]
        old: list[list[tuple[int, int, int]]] = [[] for _ in self._entries]
        for jobs, where in ((view.waiting, clusters), (view.waiting_long, old)):
            for group, count in jobs.items():
                for index in self._fitting[group]:
                    where[index].append((count, group.cores, len(self._fitting[group])))
        total = sum(mine.registered for mine in counts)
        idle_slots = [mine.idle_cores // entry.queue.cores for entry, mine in zip(self._entries, counts, strict=True)]
        totals = (Threshold(total, 0.9 * self._most, self._most), Threshold(sum(idle_slots), 200, 1_000))
        for entry, mine, slots in zip(self._entries, counts, idle_slots, strict=True):
            cores = entry.queue.cores
            idle = proportional(clusters[entry.queue.index], cores)
            old_idle = proportional(old[entry.queue.index], cores)
            entry.wanted_idle = min_idle(
                max(idle - slots, 0),
                max(old_idle - slots, 0),
                Threshold(mine.registered, math.inf, entry.queue.max_pilots),
                idle_slots=Threshold(slots, 5, 100),
                totals=totals,
            )
            entry.most = max_running(idle, mine.used if view.is_sure else 0, slots)
            self._judge(entry, mine, has_demand=bool(clusters[entry.queue.index]))

    def _judge(self, entry: _Entry, mine: _Counts, *, has_demand: bool) -> None:
        """The removal that needs no configuration: of what is queued at a site only where no glidein is used."""
        entry.empty = 0 if has_demand else entry.empty + 1
        entry.unused = 0 if mine.used else entry.unused + 1
        entry.removes_queued = entry.empty > EMPTY_CYCLES and entry.unused > UNUSED_CYCLES

    def _serve(self, counts: list[_Counts]) -> Decision:
        """The Factory."""
        submit: dict[int, int] = {}
        remove: list[Pilot] = []
        for entry, mine in zip(self._entries, counts, strict=True):
            queue, queued = entry.queue, len(mine.queued)
            limits = Limits(queue.max_pending, queue.max_pilots)
            count = to_add(entry.wanted_idle, entry.most, queued, mine.running, limits)
            if count > 0:
                submit[queue.index] = count
            elif (entry.removes_queued or self._tracking) and queued > entry.wanted_idle:
                remove += mine.queued[entry.wanted_idle :]
        return Decision(submit, remove)
