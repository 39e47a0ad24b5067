"""The rules of DIRAC's SiteDirector, written down from what DIRAC publishes; facts, no code.

Sources: the options and their defaults in DIRAC's configuration reference (`ConfigTemplate.cfg`, SiteDirector:
MaxPilotsToSubmit 100, PilotWaitingFlag True, FailedQueueCycleFactor 10, AddPilotsToEmptySites False); the pages on
SiteDirector and its submission policy "WaitingSupportedJobs"; DIRAC pull requests 718, 3681, 7110 and 7414 (waiting
pilots are taken off the waiting jobs); the pilot's options (JobAgent: polls each 20 s, ends after 10 failed matches).

Two generations differ. Up to 8.0 the waiting pilots of all queues that serve the same task queues are taken off the
demand; from 9.0 on only those of the queue itself, so that each of n queues submits for all of the jobs. We compete
with both.

Where the documentation is silent, in its favour: free slots and pilots' states are known at once (by default they are
looked at each 10 cycles only), a cycle over all queues takes no time, and pilots match at once and not at their next
poll.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from random import Random

from tests.simulation.rules import Decision, Rules, View
from tests.simulation.world import Case, Group

PERIOD = 120.0
"""PollingTime: seconds between cycles."""
MOST_AT_ONCE = 100
"""MaxPilotsToSubmit, for each queue in each cycle."""
SKIPPED_CYCLES = 10
"""FailedQueueCycleFactor: a queue whose submission failed is left alone until the tenth cycle."""
IDLE_LIMIT = 10 * 20.0
"""StopAfterFailedMatches x the pilot's polling time."""
MARGIN = 300.0
"""Assumed, as ours: the pilot wants some time to end."""


def free_slots(max_total: int, max_waiting: int, waiting: int, running: int) -> int:
    """Pilots that a queue takes: below MaxTotalJobs with all, and below MaxWaitingJobs with those that wait."""
    return min(max_total - (waiting + running), max_waiting - waiting)


def to_submit(slots: int, waiting_jobs: int, waiting_pilots: int, most: int = MOST_AT_ONCE) -> int:
    """New pilots for a queue: for jobs in matching task queues that no waiting pilot is there for; a job, a pilot."""
    return max(min(slots, waiting_jobs - waiting_pilots, most), 0)


def skips(failures: int, factor: int = SKIPPED_CYCLES) -> bool:
    """Whether a queue is left alone. `failures` counts failed submissions and the cycles skipped since."""
    return failures % factor != 0


class SiteDirector(Rules):
    """One director for all queues, one VO."""

    name = "SiteDirector"
    period = PERIOD
    margin = MARGIN
    idle_limit = tail_limit = IDLE_LIMIT

    def __init__(self, case: Case, *, per_queue: bool = False) -> None:
        self._queues = case.queues
        self._random = Random(f"{case.seed}/site director")
        self._failures: Counter[int] = Counter()
        self._per_queue = per_queue
        self._matching = {
            queue.index: frozenset(group for group in case.groups if queue.fits(group, MARGIN)) for queue in case.queues
        }
        if per_queue:
            self.name = "SiteDirector 9.0"

    def decide(self, view: View) -> Decision:
        """A failed query of the task queues submits nothing; there is no removal of any kind."""
        if not view.is_sure:
            return Decision()
        waiting = Counter(pilot.queue.index for pilot in view.pilots if pilot.is_pending)
        running = Counter(pilot.queue.index for pilot in view.pilots if pilot.is_running)
        submit: dict[int, int] = {}
        for queue in self._random.sample(self._queues, len(self._queues)):  # in another order each time
            if skips(self._failures[queue.index]):
                self._failures[queue.index] += 1
                continue
            groups = {group for group in self._matching[queue.index] if group in view.waiting}
            jobs = sum(view.waiting[group] for group in groups)
            slots = free_slots(queue.max_pilots, queue.max_pending, waiting[queue.index], running[queue.index])
            count = to_submit(slots, jobs, self._waiting_for(groups, queue.index, waiting))
            if count > 0:
                submit[queue.index] = count
                waiting[queue.index] += count
        return Decision(submit)

    def _waiting_for(self, groups: Collection[Group], queue: int, waiting: Counter[int]) -> int:
        """Pilots that wait at this queue, and at others that may run some of the same jobs."""
        if self._per_queue:
            return waiting[queue]
        return sum(count for index, count in waiting.items() if not self._matching[index].isdisjoint(groups))

    def submission_failed(self, queue: int, now: float) -> None:  # noqa: ARG002 -- cycles are counted, not seconds
        """The queue is skipped for a while."""
        self._failures[queue] += 1
