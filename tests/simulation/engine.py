"""The events of one simulation: one case, one rule set, one heap."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

from tests.simulation.chance import Chance, queue_time
from tests.simulation.matcher import Matcher
from tests.simulation.pilot import Pilot, Stage
from tests.simulation.record import Record
from tests.simulation.rules import Decision, RulesFactory, View
from tests.simulation.world import DAY, Case, Job, within

HEARTBEAT = 10.0
"""Seconds between two heartbeats, in which running pilots hear what they are told."""
SAMPLE = 900.0
"""Seconds between two points of a plot."""
PATIENCE = 3 * DAY
"""So long after the last arrival it is over, whatever still waits."""
EARLY_DEATH = 5.0
"""Seconds from its start until a pilot dies that never takes a job."""


class Simulation:
    """Runs once. Two with the same case and rules are the same to the last digit."""

    def __init__(self, case: Case, make: RulesFactory) -> None:
        self.case = case
        self.rules = make(case)
        self.now = 0.0
        self.record = Record(case, self.rules.name)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._matcher = Matcher(case.groups)
        self._chances = [Chance(case.seed, queue) for queue in case.queues]
        self._requested = [0] * len(case.queues)
        self._pending = [0] * len(case.queues)
        self._running = [0] * len(case.queues)
        self._turn: list[deque[Pilot]] = [deque() for _ in case.queues]
        self._live: dict[int, Pilot] = {}
        self._next_id = 0
        self._last_arrival = case.jobs[-1].arrival if case.jobs else 0.0

    def run(self) -> Record:
        """From the first arrival until every job has ended and every pilot gone."""
        if self.case.jobs:
            self._at(self.case.jobs[0].arrival, partial(self._arrive, 0))
        self._at(0.0, self._cycle)
        self._at(0.0, self._sample)
        over = max(self.case.days * DAY, self._last_arrival) + PATIENCE
        while self._heap:
            at, _, event = heapq.heappop(self._heap)
            if at > over:
                break
            self.now = at
            event()
            if self._is_over():
                break
        for pilot in list(self._live.values()):
            self._settle(pilot)
        self.record.finish(self.now, self._matcher.still_waiting())
        return self.record

    def _is_over(self) -> bool:
        return self.record.ended == len(self.case.jobs) and not self._live

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, event))

    # jobs

    def _arrive(self, index: int) -> None:
        job = self.case.jobs[index]
        if index + 1 < len(self.case.jobs):
            self._at(self.case.jobs[index + 1].arrival, partial(self._arrive, index + 1))
        pilot = self._matcher.place(job, self.now)
        if pilot is not None:
            self._begin(pilot, job)

    def _begin(self, pilot: Pilot, job: Job) -> None:
        pilot.free -= job.group.cores
        pilot.jobs[job.id] = job
        pilot.begun[job.id] = self.now
        pilot.had_job = True
        self.record.least_free = min(self.record.least_free, pilot.free)
        self._reopen(pilot)
        self.record.began(job, self.now)
        self._at(self.now + job.length, partial(self._end_job, pilot, job, self.now))

    def _end_job(self, pilot: Pilot, job: Job, begun: float) -> None:
        if pilot.begun.get(job.id) != begun:
            return  # its pilot died before
        self._leave(pilot, job)
        self.record.job_ended(job)
        if pilot.stage is Stage.ACTIVE:
            self._fill(pilot)
        if pilot.stage is Stage.DRAINING and not pilot.jobs:
            self._end(pilot, by_us=True)

    def _leave(self, pilot: Pilot, job: Job) -> None:
        pilot.used += job.group.cores * (self.now - pilot.begun.pop(job.id))
        del pilot.jobs[job.id]
        pilot.free += job.group.cores

    def _fill(self, pilot: Pilot) -> None:
        """Give it all that it can take."""
        while pilot.free > 0 and (job := self._matcher.take(pilot, self.now)) is not None:
            self._begin(pilot, job)
        self._reopen(pilot)
        if pilot.is_idle:
            self._idle(pilot)

    def _reopen(self, pilot: Pilot) -> None:
        if pilot.stage is Stage.ACTIVE and pilot.free > 0:
            self._matcher.open[pilot.id] = pilot
        else:
            self._matcher.open.pop(pilot.id, None)

    # pilots

    def _request(self, index: int, count: int) -> None:
        queue = self.case.queues[index]
        is_refused = within(queue.refuses, self.now)
        if is_refused:
            self.rules.submission_failed(index, self.now)
            if not self.rules.keeps_requested:
                return
        for _ in range(count):
            pilot = Pilot(self._next_id, queue, self._requested[index], self.now, stage=Stage.REQUESTED)
            self._next_id += 1
            self._requested[index] += 1
            self._pending[index] += 1
            self._live[pilot.id] = pilot
            self.rules.requested(pilot)
            if not is_refused:
                self._submit(pilot)

    def _retry(self, pilots: Sequence[Pilot]) -> None:
        for index, mine in groupby(pilots, key=lambda pilot: pilot.queue.index):
            if within(self.case.queues[index].refuses, self.now):
                self.rules.submission_failed(index, self.now)
            else:
                for pilot in mine:
                    self._submit(pilot)

    def _submit(self, pilot: Pilot) -> None:
        queue = pilot.queue
        pilot.stage = Stage.PENDING
        pilot.submitted = self.now
        self.record.submitted += 1
        fate = self._chances[queue.index].of(pilot.number)
        wait = queue_time(queue, fate, self.now, self._pending[queue.index] - 1)
        if not within(queue.starts_nothing, self.now):
            self._at(self.now + wait, partial(self._its_turn, pilot))

    def _its_turn(self, pilot: Pilot) -> None:
        if pilot.stage is Stage.PENDING:
            self._turn[pilot.queue.index].append(pilot)
            self._start_next(pilot.queue.index)

    def _start_next(self, index: int) -> None:
        queue, line = self.case.queues[index], self._turn[index]
        while line and self._running[index] < queue.slots:
            pilot = line.popleft()
            if pilot.stage is Stage.PENDING:
                self._start(pilot)

    def _start(self, pilot: Pilot) -> None:
        queue, fate = pilot.queue, self._chances[pilot.queue.index].of(pilot.number)
        self._pending[queue.index] -= 1
        self._running[queue.index] += 1
        pilot.stage = Stage.STARTING
        pilot.started = self.now
        pilot.ends = self.now + queue.wall_time - self.rules.margin
        if queue.credential is not None:
            pilot.ends = min(pilot.ends, pilot.submitted + queue.credential - self.rules.margin)
        self.record.running_cores += queue.cores
        if pilot.ends - self.now < self.rules.least_life:
            self._at(self.now + EARLY_DEATH, partial(self._end, pilot))
        elif within(queue.kills, self.now):
            self._at(self.now + EARLY_DEATH, partial(self._crash, pilot))
        else:
            self._at(self.now + queue.start_up, partial(self._ready, pilot))
            self._at(self.now + queue.mean_life * fate.life, partial(self._crash, pilot))
            self._at(pilot.ends, partial(self._live_out, pilot))

    def _ready(self, pilot: Pilot) -> None:
        if pilot.stage is Stage.STARTING:
            pilot.stage = Stage.ACTIVE
            pilot.free = pilot.queue.cores
            pilot.came_up = True
            self.rules.came_up(pilot, self.now)
            self._fill(pilot)

    def _idle(self, pilot: Pilot) -> None:
        pilot.idle_marker += 1
        limit = self.rules.tail_limit if pilot.had_job else self.rules.idle_limit
        self._at(self.now + limit, partial(self._idle_for_long, pilot, pilot.idle_marker))

    def _idle_for_long(self, pilot: Pilot, marker: int) -> None:
        if pilot.is_idle and pilot.idle_marker == marker:
            self._end(pilot)

    def _live_out(self, pilot: Pilot) -> None:
        """No job can run longer than its pilot: each was taken with enough time left."""
        if pilot.is_running:
            self._end(pilot)

    def _crash(self, pilot: Pilot) -> None:
        """Its node dies, and its jobs begin again elsewhere."""
        if not pilot.is_running:
            return
        lost = list(pilot.jobs.values())
        self._end(pilot)
        for job in lost:
            self.record.lost_jobs += 1
            other = self._matcher.place(job, self.now, again=True)
            if other is not None:
                self._begin(other, job)

    def _drain(self, pilot: Pilot) -> None:
        """It is told at its next heartbeat."""
        if pilot.stage is not Stage.ACTIVE:
            return
        self._matcher.open.pop(pilot.id, None)  # the server gives it nothing from now on
        pilot.stage = Stage.DRAINING
        if not pilot.jobs:
            fate = self._chances[pilot.queue.index].of(pilot.number)
            self._at(self.now + HEARTBEAT * fate.heartbeat, partial(self._hear, pilot))

    def _hear(self, pilot: Pilot) -> None:
        if pilot.stage is Stage.DRAINING and not pilot.jobs:
            self._end(pilot, by_us=True)

    def _end(self, pilot: Pilot, *, by_us: bool = False) -> None:
        if pilot.stage is Stage.GONE:
            return
        was_pending, index = pilot.is_pending, pilot.queue.index
        for job in list(pilot.jobs.values()):
            self._leave(pilot, job)
        self._settle(pilot)
        pilot.stage = Stage.GONE
        del self._live[pilot.id]
        self._matcher.open.pop(pilot.id, None)
        if was_pending:
            self._pending[index] -= 1
        else:
            self._running[index] -= 1
            self.record.running_cores -= pilot.queue.cores
        self.rules.ended(pilot, self.now, by_us=by_us)
        self._start_next(index)

    def _settle(self, pilot: Pilot) -> None:
        """Book what it held and what jobs had of it."""
        held = 0.0 if pilot.started is None else (self.now - pilot.started) * pilot.queue.cores
        running = sum(job.group.cores * (self.now - pilot.begun[job.id]) for job in pilot.jobs.values())
        self.record.settle(held, pilot.used + running, had_job=pilot.had_job)

    # cycles

    def _cycle(self) -> None:
        if self._is_over():
            return
        is_blind = within(self.case.blind, self.now)
        waiting = {} if is_blind else self._matcher.counts()
        old = {} if is_blind else self._matcher.old_counts(self.now)
        view = View(self.now, waiting, old, not is_blind, tuple(self._live.values()))
        self._carry_out(self.rules.decide(view))
        self._at(self.now + self.rules.period, self._cycle)

    def _carry_out(self, decision: Decision) -> None:
        for pilot in decision.remove:
            if pilot.is_pending or pilot.stage is Stage.STARTING:
                self._end(pilot, by_us=True)
        for pilot in decision.drain:
            self._drain(pilot)
        waiting = [pilot for pilot in decision.retry if pilot.stage is Stage.REQUESTED]
        self._retry(sorted(waiting, key=lambda pilot: (pilot.queue.index, pilot.id)))
        submit = self._within_cap(decision.submit) if self.case.is_capped else decision.submit
        for index, count in sorted(submit.items()):
            self._request(index, count)
        if decision.submit:
            self.record.check_caps(self._pending, self._running)

    def _within_cap(self, submit: Mapping[int, int]) -> dict[int, int]:
        """What comes first in the decision goes first."""
        left = self.case.max_pilots - len(self._live)
        kept = {}
        for index, count in submit.items():
            kept[index] = min(count, max(left, 0))
            left -= kept[index]
        return {index: count for index, count in kept.items() if count}

    def _sample(self) -> None:
        if self._is_over():
            return
        running = [pilot for pilot in self._live.values() if pilot.is_running]
        busy = sum(job.group.cores for pilot in running for job in pilot.jobs.values())
        open_waste = sum(
            (self.now - (pilot.started or 0.0)) * pilot.queue.cores
            - pilot.used
            - sum(job.group.cores * (self.now - pilot.begun[job.id]) for job in pilot.jobs.values())
            for pilot in running
        )
        self.record.sample(self.now, self._matcher.waiting_cores() + busy, open_waste)
        self._at(self.now + SAMPLE, self._sample)
