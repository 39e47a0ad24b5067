"""A job that names an image goes to a pilot that says it can run images, and to no other; its end is told in a word."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from consumers.matching import SPEC as MATCHING
from consumers.optimisation import SPEC as OPTIMISATION
from pipeline.api.assignments import assignments
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import job_queries, jobs, node_kinds, pilots
from pipeline.store.database import Database
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import pilots as pilots_table
from pipeline.store.tables import site_queues
from schemas.messages import Body, JobsReceived, Message, SlotsOffered
from schemas.nodes import NodeKind
from schemas.pilots import Report
from schemas.sites import SiteQueueEntry
from schemas.states import JobState
from tests import building
from tests.backlog import person, received
from tests.pilot_rows import scene

IMAGE: dict[str, Any] = {"image": "/cvmfs/el9", "stop": {"signal": "SIGUSR1", "grace": 300}}


def slot_on(database: Database, at: building.Site, kind: NodeKind) -> int:
    """A pilot that offers its slot on such a node."""
    pilot_id = building.offering(database, at)
    kept = database.transact(lambda tx: node_kinds.keep(tx, kind))
    change = update(pilots_table).where(pilots_table.c.id == pilot_id).values(resource_id=kept)
    database.transact(lambda tx: tx.run(change))
    return pilot_id


def tell(database: Database, spec: Any, body: Body) -> None:
    spec.execute(Context(Settings(), database, "test"), [Message.about(body, now=database.now())])


def test_only_a_pilot_that_can_run_images_gets_such_a_job(database: Database) -> None:
    at = building.site(database)
    entry = SiteQueueEntry(name="q", containers=("podman",)).model_dump_json(exclude_defaults=True)
    database.transact(lambda tx: tx.run(update(site_queues).values(entry=entry)))
    (job_id,) = received(database, person(database, "default"), **IMAGE)
    tell(database, OPTIMISATION, JobsReceived(job_ids=(job_id,)))
    old, able = slot_on(database, at, NodeKind()), slot_on(database, at, NodeKind(containers=("podman",)))
    tell(database, MATCHING, SlotsOffered(pilot_ids=(old,)))
    states = select(jobs_table.c.state, jobs_table.c.pilot_id).where(jobs_table.c.id == job_id)
    assert database.read(lambda tx: tuple(tx.rows(states)[0])) == (JobState.WAITING, None)
    tell(database, MATCHING, SlotsOffered(pilot_ids=(old, able)))
    assert database.read(lambda tx: tuple(tx.rows(states)[0])) == (JobState.MATCHED, able)

    def told(tx: Any) -> Any:
        return assignments(tx, [(pilots.lock(tx, able), jobs.lock(tx, [job_id]))])[0][0]

    given = database.transact(told)
    assert (given.image, given.stop_signal, given.stop_grace) == ("/cvmfs/el9", "SIGUSR1", 300)


def test_a_word_for_an_attempts_end_is_kept_and_shown(database: Database) -> None:
    at = scene(database)
    at.start()
    (ref,) = at.refs()
    end = {"outcome": "payload_failed", "reason": "memory limit: used 2 MiB of 1 MiB", "minor": "memory_limit"}
    at.report(Report.model_validate({**ref.model_dump(), **end}))
    vo_id = database.read(lambda tx: tx.scalar(select(jobs_table.c.vo_id)))
    (attempt,) = database.read(lambda tx: job_queries.show_job(tx, vo_id, ref.job_id)).attempts
    assert (attempt.minor, attempt.reason) == ("memory_limit", end["reason"])
