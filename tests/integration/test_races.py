"""Everybody at once over the same jobs: optimiser, matcher, pilots, data checks, kills, retries, reconcile.

Whatever the order, no job comes back from the dead, no limit leaks, and every job's events are one unbroken chain
of allowed transitions.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from sqlalchemy import select, update

from executors.data.outputs import verify
from executors.matching.shell import execute as match
from executors.optimisation.shell import execute as optimise
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import attempts, job_commands, jobs, offers, pilots, reconcile, releases, schema, silence
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.losses import Rules
from pipeline.store.pilots import PilotRow
from pipeline.store.recount import recount
from pipeline.store.tables import job_events, limits
from pipeline.store.tables import jobs as jobs_table
from schemas.messages import JobsReceived, Message, SlotsOffered
from schemas.pilots import AttemptRef, OfferRequest, Report
from schemas.states import JOB_OCCUPYING, JOB_TRANSITIONS, JobState
from tests import building
from tests.servers import MariaDbServer
from tests.submitting import all_jobs, array, submit

JOBS = 60
SECONDS = 8.0
SEED = 20261121
SETTINGS = Settings(wake_after=0.2, cool_off=0.1, cool_off_cap=0.2, confirm_timeout=0.3, pilot_max_failures=1_000_000)
RULES = Rules.of(SETTINGS)


@dataclass(slots=True)
class Arena:
    """The actors and what they act on."""

    database: Database
    campaign_id: int
    pilots: list[int]
    vo_id: int
    dice: random.Random
    trouble: float = 0.5
    """How likely an attempt ends badly."""

    @property
    def context(self) -> Context:
        return Context(SETTINGS, self.database, "race")

    def ids(self, *states: JobState) -> list[int]:
        """The jobs that were in these states a moment ago."""
        return [job.id for job in self._unlocked() if job.state in states]

    def optimise(self) -> None:
        self._wake_cooled()
        if ids := self.ids(JobState.RECEIVED):
            optimise(self.context, [Message.about(JobsReceived(job_ids=tuple(ids)), now=self.database.now())])

    def match(self) -> None:
        match(self.context, [Message.about(SlotsOffered(pilot_ids=tuple(self.pilots)), now=self.database.now())])

    def offer(self) -> None:
        request = OfferRequest(cores=8, memory=65_536, disk=65_536, time_left=80_000)
        pilot_id = self.dice.choice(self.pilots)
        self.database.transact(lambda tx: offers.offer(tx, pilots.lock(tx, pilot_id), request, RULES))

    def start(self) -> None:
        for pilot_id, refs in self._held(JobState.MATCHED).items():
            self.database.transact(partial(_as_pilot, pilot_id=pilot_id, work=partial(_start, refs=refs)))

    def report(self) -> None:
        for pilot_id, refs in self._held(JobState.RUNNING, JobState.STALLED).items():
            reports = [self._ending(ref) for ref in refs]
            self.database.transact(partial(_as_pilot, pilot_id=pilot_id, work=partial(_report, reports=reports)))

    def verify(self) -> None:
        verify(self.context, self.ids(JobState.COMPLETING))

    def kill(self) -> None:
        chosen = tuple(self.dice.sample(self.ids(*JobState), 1))
        job_commands.kill(self.database, self.vo_id, JobFilter(ids=chosen))
        threading.Event().wait(0.2)  # so that some jobs live long enough to end otherwise

    def retry(self) -> None:
        job_commands.retry(self.database, self.vo_id, JobFilter(), window=8, wake_after=0.1)

    def reconcile(self) -> None:
        building.serving(self.database, 60)
        self.database.transact(lambda tx: reconcile.return_unconfirmed(tx, 100, RULES))

    def stall(self) -> None:
        pilot_id = self.dice.choice(self.pilots)
        self.database.transact(partial(silence.stall, pilot_id=pilot_id))

    def _ending(self, ref: AttemptRef) -> Report:
        bad = self.dice.random() < self.trouble
        outcome = self.dice.choice(["payload_failed", "infrastructure_failed", "killed"]) if bad else "succeeded"
        return Report.model_validate({**ref.model_dump(), "outcome": outcome})

    def _held(self, *states: JobState) -> dict[int, list[AttemptRef]]:
        held: defaultdict[int, list[AttemptRef]] = defaultdict(list)
        for job in self._unlocked():
            if job.state in states and job.pilot_id is not None:
                held[job.pilot_id].append(AttemptRef(job_id=job.id, attempt=job.attempt))
        return held

    def _unlocked(self) -> list[jobs.JobRow]:
        query = jobs.columns().where(jobs_table.c.campaign_id == self.campaign_id)
        return self.database.read(lambda tx: [jobs.JobRow(**r._asdict()) for r in tx.rows(query)])

    def _wake_cooled(self) -> None:
        """Cool-offs are over."""
        cool = (jobs_table.c.state == JobState.RECEIVED, jobs_table.c.wake_at > jobs_table.c.created_at)
        self.database.transact(lambda tx: tx.run(update(jobs_table).where(*cool).values(wake_at=tx.now)))


def _as_pilot(tx: Transaction, pilot_id: int, work: Callable[[Transaction, PilotRow], object]) -> None:
    work(tx, pilots.lock(tx, pilot_id))


def _start(tx: Transaction, pilot: PilotRow, refs: Sequence[AttemptRef]) -> None:
    attempts.start(tx, pilot, refs, RULES)


def _report(tx: Transaction, pilot: PilotRow, reports: Sequence[Report]) -> None:
    attempts.report(tx, pilot, reports, RULES)


def test_nothing_comes_back_from_the_dead_and_no_limit_leaks(mariadb_server: MariaDbServer) -> None:
    url = mariadb_server.new_database()
    arena = _arena(Database(url))
    actors = [
        *(arena.optimise, arena.optimise, arena.match, arena.match, arena.offer, arena.start, arena.start),
        *(arena.report, arena.report, arena.verify, arena.kill, arena.retry, arena.reconcile, arena.stall),
    ]
    _together(actors, SECONDS)
    _check(arena)
    arena.trouble = 0.0
    calm = [arena.optimise, arena.offer, arena.match, arena.start, arena.report, arena.verify, arena.retry]
    for _ in range(60):
        for act in calm:
            act()
    states = Counter(job.state for job in all_jobs(arena.database, arena.campaign_id))
    print(f"seed {SEED}: {dict(states)}")
    assert set(states) <= {JobState.DONE, JobState.KILLED}
    assert states[JobState.DONE]
    _check(arena)
    arena.database.close()
    mariadb_server.drop_database(url)


def _arena(database: Database) -> Arena:
    schema.upgrade(database)
    building.serving(database, 60)
    at = building.site(database, cores=8, running=20)
    held = [building.offering(database, at, cores=8, memory=65_536, disk=65_536) for _ in range(3)]
    retries = {"infrastructure": 3, "payload": 2}
    submitted = submit(database, {"name": "a", "retries": retries, **array(JOBS)})
    vo_id = all_jobs(database, submitted.campaign_id)[0].vo_id
    return Arena(database, submitted.campaign_id, held, vo_id, random.Random(SEED))


def _together(actors: list[Callable[[], None]], seconds: float) -> None:
    """All actors at once; raises what the first of them raised that failed, and the others stop then."""
    until = time.monotonic() + seconds
    over = threading.Event()

    def play(act: Callable[[], None]) -> None:
        while time.monotonic() < until and not over.is_set():
            act()

    with ThreadPoolExecutor(len(actors)) as pool:
        playing = [pool.submit(play, act) for act in actors]
        wait(playing, return_when=FIRST_EXCEPTION)
        over.set()
    for played in playing:
        played.result()


def _check(arena: Arena) -> None:
    found = {job.id: job for job in all_jobs(arena.database, arena.campaign_id)}
    occupying = sum(job.state in JOB_OCCUPYING for job in found.values())
    releases.book_all(arena.database, SETTINGS.share_half_life)
    assert arena.database.transact(recount) == []
    assert arena.database.read(lambda tx: tx.scalar(select(limits.c.running))) == occupying <= 20
    assert not [job for job in found.values() if job.kill_requested and job.state is JobState.WAITING]
    chains: defaultdict[int, list[tuple[str | None, str, int]]] = defaultdict(list)
    query = select(job_events.c.job_id, job_events.c.from_state, job_events.c.to_state, job_events.c.attempt)
    for row in arena.database.read(lambda tx: tx.rows(query.order_by(job_events.c.id))):
        chains[row.job_id].append((row.from_state, row.to_state, row.attempt))
    for job_id, chain in chains.items():
        assert chain[0][:2] == (None, "received")
        for (_, before, _), (after, to, _) in pairwise(chain):
            assert before == after, f"job {job_id}: {chain}"
            assert JobState(to) in JOB_TRANSITIONS[JobState(before)]
        assert chain[-1][1] == found[job_id].state
        assert chain[-1][2] == found[job_id].attempt
        matched = [attempt for _, to, attempt in chain if to == "matched"]
        assert matched == sorted(set(matched)), "each assignment is an attempt of its own"
