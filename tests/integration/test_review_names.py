"""Names that differ in case alone are two names, on every database."""

from __future__ import annotations

from sqlalchemy import func, select

from executors.optimisation import shell
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import access
from pipeline.store.database import Database
from pipeline.store.tables import autoclusters
from schemas.pilots import Report, ReportedOutput
from tests.building import site
from tests.pilot_rows import scene
from tests.submitting import all_jobs, submit, user


def test_job_types_that_differ_in_case_are_two_autoclusters(database: Database) -> None:
    """On MariaDB the second was taken for the first and then not found: its jobs ended as dead letters."""
    site(database)
    submitted = submit(database, {"name": "a", "job_type": "Sim"}, {"name": "b", "job_type": "sim"})
    context = Context(Settings(), database, "test")
    shell.execute(context, list(submitted.messages))
    assert {job.state.value for job in all_jobs(database, submitted.campaign_id)} == {"waiting"}
    assert database.read(lambda tx: tx.scalar(select(func.count()).select_from(autoclusters))) == 2


def test_outputs_that_differ_in_case_are_two_outputs(database: Database) -> None:
    """On MariaDB the report was refused with an error, again and again, and the job never ended."""
    at = scene(database, outputs=["A.root", "a.root"])
    at.start()
    (job,) = at.jobs()
    folder = f"file:///LOCAL-disk/default/{at.campaign_id}/s/{job.id}/a{job.attempt}"
    outputs = tuple(
        ReportedOutput(name=name, url=f"{folder}/{name}", size=1, adler32="00000001") for name in ("A.root", "a.root")
    )
    at.report(Report(job_id=job.id, attempt=job.attempt, outcome="succeeded", outputs=outputs))
    assert at.states() == ["completing"]


def test_people_and_vos_that_differ_in_case_are_two(database: Database) -> None:
    """Else one would command the other's campaigns, or pass the wall between their VOs."""
    assert user(database, subject="Alice").identity_id != user(database, subject="alice").identity_id
    upper = database.transact(lambda tx: access.ensure_vo(tx, "CMS"))
    assert database.transact(lambda tx: access.ensure_vo(tx, "cms")) != upper
