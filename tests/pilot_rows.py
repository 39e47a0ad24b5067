"""Pilots with jobs at hand, as tests of the pilot protocol start from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import select, update

from pipeline.store import attempts, heartbeats, jobs, limits, pilots, releases
from pipeline.store.database import Database, Transaction
from pipeline.store.jobs import Change, JobRow
from pipeline.store.losses import Aftermath, Rules
from pipeline.store.pilots import PilotRow
from pipeline.store.tables import autoclusters, requirements
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import limits as limits_table
from schemas.outcomes import Backoff
from schemas.pilots import AttemptRef, HeartbeatReply, HeartbeatRequest, HeldJob, Report
from schemas.requirements import Requirement
from schemas.states import JobState
from tests import building
from tests.submitting import all_jobs, array, move, submit

T = TypeVar("T")
HALF_LIFE = 7 * 86_400.0
RULES = Rules(
    wake_after=30.0,
    cool_off=Backoff(base=60.0, cap=3_600.0),
    heartbeat_interval=10.0,
    heartbeat_timeout=120.0,
    confirm_timeout=120.0,
    max_failures=5,
    node_rest=3600.0,
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A site that may run 10 jobs at a time, a pilot there, and the jobs of one campaign, matched to it."""

    database: Database
    site: building.Site
    pilot_id: int
    campaign_id: int

    def jobs(self) -> list[JobRow]:
        """The jobs as they are now."""
        return all_jobs(self.database, self.campaign_id)

    def states(self) -> list[str]:
        """Their states."""
        return [job.state.value for job in self.jobs()]

    def refs(self) -> list[AttemptRef]:
        """Their present attempts."""
        return [AttemptRef(job_id=job.id, attempt=job.attempt) for job in self.jobs()]

    def as_pilot(self, work: Callable[[Transaction, PilotRow], T]) -> T:
        """Run `work` as the API does for the pilot's calls."""
        return self.database.transact(lambda tx: work(tx, pilots.lock(tx, self.pilot_id)))

    def start(self, refs: list[AttemptRef] | None = None) -> attempts.Ruling:
        """The pilot confirms attempts, all of its own by default."""
        chosen = self.refs() if refs is None else refs
        return self.as_pilot(lambda tx, pilot: attempts.start(tx, pilot, chosen, RULES))

    def report(self, *reports: Report) -> attempts.Ruling:
        """The pilot reports ends."""
        return self.as_pilot(lambda tx, pilot: attempts.report(tx, pilot, reports, RULES))

    def beat(self, refs: list[AttemptRef], **words: Any) -> tuple[HeartbeatReply, Aftermath]:
        """The pilot lists these attempts as running."""
        held = tuple(HeldJob(**ref.model_dump(), phase="running", **words) for ref in refs)
        request = HeartbeatRequest(jobs=held)
        return self.as_pilot(lambda tx, pilot: heartbeats.heartbeat(tx, pilot, request, RULES))

    def move(self, state: JobState) -> None:
        """Somebody else moves all jobs."""
        move(self.database, [job.id for job in self.jobs()], state)

    def assign(self, pilot_id: int | None = None) -> None:
        """Every job is optimised, and assigned to a pilot."""
        match(self.database, self.jobs(), self.site, pilot_id or self.pilot_id)

    def counted(self) -> int:
        """Running jobs as the site's limit counts them, once everything that has ended is booked."""
        releases.book_all(self.database, HALF_LIFE)
        query = select(limits_table.c.running).where(limits_table.c.subject_id == self.site.id)
        return int(self.database.transact(lambda tx: tx.scalar(query)))

    def occupying(self) -> int:
        """Running jobs as the rows have them."""
        return sum(job.state in {JobState.MATCHED, JobState.RUNNING, JobState.STALLED} for job in self.jobs())


def scene(database: Database, many: int = 1, **step: Any) -> Scene:
    """So many jobs of one step, matched to a pilot."""
    site = building.site(database, running=10)
    pilot_id = building.pilot(database, site)
    submitted = submit(database, {"name": "s", **array(many), **step})
    made = Scene(database, site, pilot_id, submitted.campaign_id)
    made.assign()
    return made


def match(database: Database, found: list[JobRow], site: building.Site, pilot_id: int) -> None:
    """Take received jobs through waiting to matched."""
    autocluster_id = autocluster(database, found[0])
    place = (("pilot_id", pilot_id), ("site_id", site.id))
    ids = [job.id for job in found]
    waiting = (("autocluster_id", autocluster_id),)
    database.transact(
        lambda tx: jobs.apply(tx, [Change(job, JobState.WAITING, values=waiting) for job in jobs.lock(tx, ids)])
    )

    def assign(tx: Transaction) -> None:
        jobs.apply(tx, [Change(job, JobState.MATCHED, values=place) for job in jobs.lock(tx, ids)])
        counted = limits.lock(tx, limits.of(tx, (), [site.id]))
        limits.move(tx, counted, {limit.id: len(ids) for limit in counted})

    database.transact(assign)


def autocluster(database: Database, job: JobRow, **wants: Any) -> int:
    """An autocluster for this requirement, in the job's VO."""
    requirement = Requirement(**wants)

    def work(tx: Transaction) -> int:
        signature = requirement.signature()
        tx.add_missing(requirements, [{"signature": signature, "body": requirement.model_dump_json()}])
        requirement_id = tx.scalar(select(requirements.c.id).where(requirements.c.signature == signature))
        row = {"requirement_id": requirement_id, "vo_id": job.vo_id, "group_id": 1, "owner_id": 1, "job_type": "user"}
        tx.add_missing(autoclusters, [row])
        return int(tx.scalar(select(autoclusters.c.id).where(autoclusters.c.requirement_id == requirement_id)))

    return database.transact(work)


def set_job(database: Database, job_id: int, **values: Any) -> None:
    """Set columns of a job."""
    database.transact(lambda tx: tx.run(update(jobs_table).where(jobs_table.c.id == job_id).values(**values)))
