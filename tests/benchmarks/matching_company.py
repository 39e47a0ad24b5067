"""What goes on beside matching, in a process of its own: a short backlog kept up, jobs submitted and killed.

Submitted jobs go the program's own way, by the functions that the API and the consumers call: `campaigns.submit`,
then the optimisation executor until they wait, its news published. So do kills: `job_commands.kill`. A short backlog
is kept up more cheaply, so that this costs next to nothing in the run that the others are compared with: its jobs are
loaded before, and what is written is their row in `waiting_jobs` (and the news, as optimisation publishes it).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_longlong
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from random import Random
from typing import Any

from sqlalchemy import insert, select

from executors.optimisation.shell import execute
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import campaigns, job_commands, optimisation
from pipeline.store.campaigns import Submission
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.tables import autoclusters, waiting_jobs
from pipeline.transport.port import Transport, open_transport
from schemas.campaign import Campaign
from schemas.messages import JobsReceived, JobsWaiting, Message, about_ids
from schemas.states import JobState
from tests.benchmarks.matching_loading import Batch, Loaded

CHURN = 0.1
"""Jobs submitted, and as many killed, for each one matched."""
STEPS, JOBS_PER_STEP = 5, 20
"""Of a submitted campaign; each step wants what no other wants, so it makes an autocluster of its own."""
_KILLED_TOGETHER = 50
_CHUNK = 20
"""Jobs of a campaign that come together where a short backlog is kept up."""
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Chunk:
    """Jobs of one autocluster that begin to wait together."""

    cluster_id: int
    priority: int
    first_job: int
    jobs: int


def chunks(batches: Sequence[Batch], seed: int) -> list[Chunk]:
    """All jobs of the batches, cut into pieces in random order: any beginning of it is as skewed as the whole."""
    found = [
        Chunk(batch.cluster_id, batch.priority, first, min(_CHUNK, batch.first_job + batch.jobs - first))
        for batch in batches
        for first in range(batch.first_job, batch.first_job + batch.jobs, _CHUNK)
    ]
    Random(seed).shuffle(found)
    return found


@dataclass(frozen=True, slots=True)
class Wish:
    """What the company shall do."""

    loaded: Loaded
    broker_url: str
    feed: tuple[Chunk, ...] = ()
    """Jobs that begin to wait as others are matched, in this order."""
    is_churning: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """What both processes know: `matched` is told to the company, the others are its own."""

    matched: Synchronized[int]
    fed: Synchronized[int]
    submitted: Synchronized[int]
    killed: Synchronized[int]


@dataclass(slots=True)
class Company:
    """The process, and what it counts."""

    process: BaseProcess
    counts: Counts

    def tell(self, matched: int) -> None:
        """So many jobs are matched by now."""
        self.counts.matched.value = matched

    def check(self) -> None:
        """Raises AssertionError when it ended."""
        assert self.process.is_alive(), f"the process that submits and kills ended with {self.process.exitcode}"


@contextmanager
def company(wish: Wish) -> Iterator[Company]:
    """The process for as long as the block lasts; all counts are final after it."""
    spawn = multiprocessing.get_context("spawn")
    counts = Counts(*(spawn.Value(c_longlong, 0) for _ in range(4)))
    stop = spawn.Event()
    process = spawn.Process(target=_keep, args=(wish, counts, stop))
    process.start()
    try:
        yield Company(process, counts)
    finally:
        stop.set()
        process.join(60)
        if process.is_alive():
            process.kill()


def _keep(wish: Wish, counts: Counts, stop: Event) -> None:
    database = Database(wish.loaded.database_url)
    transport = open_transport(wish.broker_url, "bench-company")
    worker = _Worker(wish, database, transport, counts)
    try:
        while not stop.wait(_PAUSE):
            worker.feed()
            if wish.is_churning:
                worker.churn()
    finally:
        transport.close()
        database.close()


@dataclass(slots=True)
class _Worker:
    wish: Wish
    database: Database
    transport: Transport
    counts: Counts
    random: Random = field(default_factory=lambda: Random(1))
    next_chunk: int = 0

    def feed(self) -> None:
        """As many jobs more wait as were matched since."""
        due, taken = self.counts.matched.value - self.counts.fed.value, []
        while due > 0 and self.next_chunk < len(self.wish.feed):
            taken.append(self.wish.feed[self.next_chunk])
            self.next_chunk += 1
            due -= taken[-1].jobs
        if taken:
            self.counts.fed.value += self.database.transact(lambda tx: _wait(tx, taken))
            self._tell(sorted({chunk.cluster_id for chunk in taken}))

    def churn(self) -> None:
        """One campaign, and some kills, when they are due."""
        if self.counts.matched.value * CHURN - self.counts.submitted.value >= STEPS * JOBS_PER_STEP:
            self._submit()
        if self.counts.matched.value * CHURN - self.counts.killed.value >= _KILLED_TOGETHER:
            self._kill()

    def _submit(self) -> None:
        loaded = self.wish.loaded
        steps = [self._step(number) for number in range(STEPS)]
        submission = Submission(
            vo_id=loaded.vo_id,
            owner_id=self.random.choice(loaded.owner_ids),
            description=Campaign.model_validate({"campaign": "churn", "steps": steps}),
            sandboxes={},
            idempotency_key=None,
            request_digest="",
        )
        submitted = campaigns.submit(self.database, submission, window=4, wake_after=30.0)
        self._optimise(submitted.messages)
        self.counts.submitted.value += submitted.jobs

    def _step(self, number: int) -> dict[str, Any]:
        """One like another that waits, but of a disk size that nobody else asks for."""
        wish = self.random.choice(self.wish.loaded.world.clusters).wish
        return {
            "name": f"step{number}",
            "command": ["true"],
            "parameters": {"axes": {"n": {"range": [0, JOBS_PER_STEP]}}},
            "requirements": {**wish, "disk": 1_000 + self.counts.submitted.value % 100_000 // JOBS_PER_STEP + number},
        }

    def _optimise(self, messages: Sequence[Message]) -> None:
        """What the optimisation consumer does, until all jobs wait; its news goes out."""
        news: list[Message] = list(messages)
        while received := [message for message in news if isinstance(message.body, JobsReceived)]:
            others = [message for message in news if message not in received]
            outcomes = execute(Context(Settings(), self.database, "bench-company"), received)
            news = [*others, *(m for outcome in outcomes for m in getattr(outcome, "follow_ups", ()))]
        self.transport.publish([message for message in news if isinstance(message.body, JobsWaiting)])

    def _kill(self) -> None:
        """The jobs of some autocluster that came last, if some wait there."""
        ids = self.database.read(self._some_waiting)
        filtered = JobFilter(ids=tuple(ids), states=(JobState.WAITING,))
        if ids:
            self.counts.killed.value += job_commands.kill(self.database, self.wish.loaded.vo_id, filtered).changed

    def _some_waiting(self, tx: Transaction) -> list[int]:
        last = int(tx.scalar(select(autoclusters.c.id).order_by(autoclusters.c.id.desc()).limit(1)))
        of_cluster = waiting_jobs.c.autocluster_id == self.random.randint(1, last)
        query = select(waiting_jobs.c.job_id).where(of_cluster)
        backwards = query.order_by(waiting_jobs.c.descent.desc(), waiting_jobs.c.job_id.desc())
        return [row.job_id for row in tx.rows(backwards.limit(_KILLED_TOGETHER))]

    def _tell(self, cluster_ids: Sequence[int]) -> None:
        def ask(tx: Transaction) -> list[Message]:
            is_parked = optimisation.is_any_slot_parked(tx, {self.wish.loaded.vo_id})
            return about_ids(JobsWaiting, cluster_ids, now=tx.now) if is_parked else []

        self.transport.publish(self.database.read(ask))


def add_waiting(database: Database, first: Sequence[Chunk]) -> int:
    """The first jobs that wait; how many."""
    return database.transact(lambda tx: _wait(tx, first))


def _wait(tx: Transaction, some: Sequence[Chunk]) -> int:
    rows = [
        {"autocluster_id": chunk.cluster_id, "descent": -chunk.priority, "job_id": job_id}
        for chunk in some
        for job_id in range(chunk.first_job, chunk.first_job + chunk.jobs)
    ]
    tx.connection.execute(insert(waiting_jobs), rows)
    return len(rows)
