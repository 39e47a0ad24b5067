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
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import pairwise

from sqlalchemy import select, update

from executors.data.outputs import verify
from executors.matching.shell import execute as match
from executors.optimisation.shell import execute as optimise
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import (
    attempts,
    job_commands,
    jobs,
    migration,
    offers,
    pilots,
    policy_apply,
    reconcile,
    releases,
    silence,
)
from pipeline.store.access import Caller
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.losses import Rules
from pipeline.store.pilots import PilotRow
from pipeline.store.recount import recount
from pipeline.store.tables import autoclusters, job_events, requirements, start_rates, usage
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import pilots as pilots_table
from pipeline.store.tables import releases as releases_table
from schemas.api import Role
from schemas.messages import JobsReceived, Message, SlotsOffered
from schemas.pilots import AttemptRef, OfferRequest, Report
from schemas.policy import Policy
from schemas.states import JOB_OCCUPYING, JOB_TRANSITIONS, JobState
from tests import building
from tests.servers import MariaDbServer
from tests.submitting import all_jobs, array, submit, user

JOBS = 90
_POLICY = Policy.model_validate(
    {
        "limits": [
            {"name": "alice", "owner": "alice", "max_running": 19},
            {"name": "merges", "job_type": "merge", "max_running": 7},
            {"name": "merges-at-A", "job_type": "merge", "site": "A", "max_running": 5},
            {"name": "licences", "label": "licence", "max_running": 6},
        ]
    }
)
LIMITS = {"site 1": 12, "site 2": 11, "owner": 19, "merges": 7, "merges at A": 5, "licences": 6}
RATE = {"jobs": 20, "period": 1.0}
"""At the site A."""
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
    highest: Counter[str] = field(default_factory=Counter)
    """The most jobs that were ever seen of each limit."""

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

    def watch(self) -> None:
        """No limit is exceeded at any commit: one statement sees one moment."""
        attempts_now = (
            select(jobs_table.c.site_id, autoclusters.c.job_type, requirements.c.body)
            .join(autoclusters, autoclusters.c.id == jobs_table.c.autocluster_id)
            .join(requirements, requirements.c.id == autoclusters.c.requirement_id)
            .where(jobs_table.c.state.in_(JOB_OCCUPYING))
        )
        seen: Counter[str] = Counter()
        for row in self.database.read(lambda tx: tx.rows(attempts_now)):
            seen[f"site {row.site_id}"] += 1
            seen["owner"] += 1
            seen["merges"] += row.job_type == "merge"
            seen["merges at A"] += row.job_type == "merge" and row.site_id == 1
            seen["licences"] += "licence" in row.body
        for name, most in LIMITS.items():
            assert seen[name] <= most, f"{name}: {seen[name]} of {most}"
            self.highest[name] = max(self.highest[name], seen[name])
        threading.Event().wait(0.01)

    def recount(self) -> None:
        """Nothing drifts, whatever goes on."""
        assert self.database.transact(recount) == []
        threading.Event().wait(0.1)

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
        *(arena.optimise, arena.optimise, arena.match, arena.match, arena.match, arena.match, arena.offer),
        *(arena.start, arena.start, arena.report, arena.report, arena.verify, arena.kill, arena.retry),
        *(arena.reconcile, arena.stall, arena.watch, arena.recount),
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
    _check_account(arena)
    _check_starts(arena)
    assert arena.highest["site 2"] > LIMITS["site 2"] / 2, arena.highest
    arena.database.close()
    mariadb_server.drop_database(url)


def _arena(database: Database) -> Arena:
    migration.upgrade(database)
    building.serving(database, 60)
    held: list[int] = []
    for name, most in (("A", LIMITS["site 1"]), ("B", LIMITS["site 2"])):
        at = building.site(database, name, cores=8, running=most)
        held += [building.offering(database, at, cores=8, memory=65_536, disk=65_536) for _ in range(2)]
    owner = user(database)
    database.transact(lambda tx: policy_apply.apply(tx, _admin(owner.vo_id), _POLICY))
    database.transact(lambda tx: tx.add(start_rates, site_id=1, **RATE, tokens=0.0, at=tx.now))
    common = {"retries": {"infrastructure": 3, "payload": 2}, **array(JOBS // 3)}
    submitted = submit(
        database,
        {"name": "a", **common},
        {"name": "b", "job_type": "merge", **common},
        {"name": "c", "requirements": {"labels": ["licence"]}, **common},
    )
    return Arena(database, submitted.campaign_id, held, owner.vo_id, random.Random(SEED))


def _admin(vo_id: int) -> Caller:
    return Caller(vo_id=vo_id, vo="default", role=Role.OPERATOR, subject="root")


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
    releases.book_all(arena.database, SETTINGS.share_half_life)
    assert arena.database.transact(recount) == []
    assert arena.database.read(lambda tx: tx.rows(select(releases_table))) == []
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


def _check_account(arena: Arena) -> None:
    """What was charged, settled and used are exactly the attempts that there were: all of one core and one hour."""
    charged = settled = used = 0
    begun: dict[int, datetime] = {}
    is_started: set[int] = set()
    query = select(job_events.c.job_id, job_events.c.to_state, job_events.c.at).order_by(job_events.c.id)
    for row in arena.database.read(lambda tx: tx.rows(query)):
        if row.to_state == JobState.MATCHED:
            charged += 3_600
            begun[row.job_id] = row.at
        elif row.to_state == JobState.RUNNING:
            is_started.add(row.job_id)
        elif row.to_state not in JOB_OCCUPYING and row.job_id in begun:
            settled += 3_600
            seconds = (row.at - begun.pop(row.job_id)).total_seconds()
            used += round(seconds) if row.job_id in is_started else 0
            is_started.discard(row.job_id)
    (account,) = arena.database.read(lambda tx: tx.rows(select(usage)))
    assert (account.charged, account.settled, account.used) == (charged, settled, used)
    assert charged == settled


def _check_starts(arena: Arena) -> None:
    """No more than a bucket full and what flowed into it meanwhile ever started at the site that has a start rate."""
    at_site = select(pilots_table.c.id).where(pilots_table.c.site_id == 1)
    of_site = (job_events.c.to_state == JobState.MATCHED, job_events.c.pilot_id.in_(at_site))
    query = select(job_events.c.at).where(*of_site).order_by(job_events.c.at)
    starts = [row.at for row in arena.database.read(lambda tx: tx.rows(query))]
    assert starts
    for first, start in enumerate(starts):
        for last in range(first, len(starts)):
            seconds = (starts[last] - start).total_seconds()
            assert last - first + 1 <= RATE["jobs"] * (1 + seconds / RATE["period"]) + 1e-6
