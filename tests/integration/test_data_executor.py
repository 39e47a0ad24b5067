"""Data checks against a real folder: winners are registered, liars and losers are not."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from executors.data import shell
from executors.upkeep import housekeeping
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import jobs
from pipeline.store.database import Database
from pipeline.store.jobs import JobRow
from pipeline.store.tables import deletions, files, replicas, reported_outputs, site_storages, sites, storages
from schemas.messages import FilesDue, Message, OutputsReported, StepsDue
from schemas.outcomes import Done
from schemas.paths import attempt_folder
from schemas.states import JobState
from tests.submitting import TO_COMPLETING, all_jobs, array, move, step_states, submit


@dataclass(frozen=True, slots=True)
class Place:
    """A site with one storage, and that storage's folder."""

    site_id: int
    storage_id: int
    root: Path


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    root = tmp_path / "storage"
    root.mkdir()
    site_id = database.transact(lambda tx: tx.add(sites, name="LOCAL", declared=True))
    row = {"name": "local", "kind": "file", "url": f"file://{root}", "declared": True}
    storage_id = database.transact(lambda tx: tx.add(storages, **row))
    link = {"site_id": site_id, "storage_id": storage_id, "position": 0}
    database.transact(lambda tx: tx.add_all(site_storages, [link]))
    return Place(site_id, storage_id, root)


def _write(place: Place, path: str, content: bytes) -> str:
    target = place.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    adler32 = f"{zlib.adler32(content):08x}"
    note = {"adler32": adler32, "size": len(content), "mtime_ns": target.stat().st_mtime_ns}
    target.with_name(target.name + ".adler32").write_text(json.dumps(note))
    return adler32


def _report(database: Database, place: Place, job: JobRow, name: str, content: bytes) -> Path:
    path = f"{attempt_folder('default', job.campaign_id, 'a', job.id, job.attempt)}/{name}"
    row = {
        "job_id": job.id,
        "attempt": job.attempt,
        "name": name,
        "storage_id": place.storage_id,
        "path": path,
        "size": len(content),
        "adler32": _write(place, path, content),
    }
    database.transact(lambda tx: tx.add_all(reported_outputs, [row]))
    return place.root / path


def _completing(database: Database, place: Place, size: int = 1, **step: Any) -> list[JobRow]:
    submitted = submit(database, {"name": "a", "outputs": ["out.txt"], **array(size), **step})
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    move(database, ids, *TO_COMPLETING, autocluster_id=1, site_id=place.site_id)
    return all_jobs(database, submitted.campaign_id)


def _run(
    database: Database, *bodies: OutputsReported | StepsDue | FilesDue, settings: Settings | None = None
) -> list[Message]:
    context = Context(settings or Settings(), database, "test")
    outcomes = shell.execute(context, [Message.about(body, now=database.now()) for body in bodies])
    return [message for outcome in outcomes if isinstance(outcome, Done) for message in outcome.follow_ups]


def _states(database: Database, found: Sequence[JobRow]) -> list[JobState]:
    return [job.state for job in all_jobs(database, found[0].campaign_id)]


def test_outputs_that_agree_are_registered_and_the_step_closes(database: Database, place: Place) -> None:
    found = _completing(database, place, size=3)
    for job in found:
        _report(database, place, job, "out.txt", b"result %d" % job.id)
    follow_ups = _run(database, OutputsReported(job_ids=tuple(job.id for job in found)))
    assert _states(database, found) == [JobState.DONE] * 3
    assert [type(message.body) for message in follow_ups] == [StepsDue]
    _run(database, *(message.body for message in follow_ups if isinstance(message.body, StepsDue)))
    assert step_states(database, found[0].campaign_id) == {("a", 1): "closed"}
    lfns = database.transact(lambda tx: [row.lfn for row in tx.rows(select(files.c.lfn).order_by(files.c.lfn))])
    assert lfns == [f"/default/{found[0].campaign_id}/a/{index:06d}/out.txt" for index in range(3)]


def test_a_repeated_message_registers_nothing_twice(database: Database, place: Place) -> None:
    (job,) = _completing(database, place)
    _report(database, place, job, "out.txt", b"x")
    for _ in range(2):
        _run(database, OutputsReported(job_ids=(job.id,)))
    assert len(database.transact(lambda tx: tx.rows(select(replicas)))) == 1


@pytest.mark.parametrize("fault", ["missing", "shorter", "changed"])
def test_an_output_that_does_not_agree_costs_an_infrastructure_loss(
    database: Database, place: Place, fault: str
) -> None:
    (job,) = _completing(database, place)
    path = _report(database, place, job, "out.txt", b"result")
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(b"res" if fault == "shorter" else b"RESULT")
    _run(database, OutputsReported(job_ids=(job.id,)))
    (after,) = all_jobs(database, job.campaign_id)
    assert (after.state, after.infrastructure_losses) == (JobState.RECEIVED, 1)
    assert not database.transact(lambda tx: tx.rows(select(files)))


def test_by_the_policy_trust_nothing_is_compared(database: Database, place: Place) -> None:
    (job,) = _completing(database, place, verify="trust")
    _report(database, place, job, "out.txt", b"result").unlink()
    _run(database, OutputsReported(job_ids=(job.id,)))
    assert _states(database, [job]) == [JobState.DONE]


def test_a_storage_that_is_down_costs_nothing_but_time(database: Database, place: Place) -> None:
    (job,) = _completing(database, place)
    _report(database, place, job, "out.txt", b"result")
    place.root.rename(place.root.with_name("unmounted"))
    _run(database, OutputsReported(job_ids=(job.id,)))
    (after,) = all_jobs(database, job.campaign_id)
    assert (after.state, after.infrastructure_losses) == (JobState.COMPLETING, 0)
    place.root.with_name("unmounted").rename(place.root)
    _run(database, OutputsReported(job_ids=(job.id,)))
    assert _states(database, [job]) == [JobState.DONE]


def test_a_job_killed_while_completing_is_killed_and_its_output_is_deleted(database: Database, place: Place) -> None:
    (job,) = _completing(database, place)
    path = _report(database, place, job, "out.txt", b"result")
    database.transact(lambda tx: jobs.request_kill(tx, jobs.lock(tx, [job.id])))
    _run(database, OutputsReported(job_ids=(job.id,)))
    assert _states(database, [job]) == [JobState.KILLED]
    database.transact(lambda tx: tx.run(update(deletions).values(due_at=tx.now - timedelta(seconds=1))))
    housekeeping.delete_losers(Context(Settings(), database, "test"))
    assert not path.parent.exists()
    assert not database.transact(lambda tx: tx.rows(select(deletions)))


def test_a_replica_that_changed_is_lost(database: Database, place: Place) -> None:
    (job,) = _completing(database, place)
    path = _report(database, place, job, "out.txt", b"result")
    _run(database, OutputsReported(job_ids=(job.id,)))
    file_id = database.transact(lambda tx: tx.scalar(select(files.c.id)))
    _run(database, FilesDue(file_ids=(file_id,)))
    assert database.transact(lambda tx: tx.scalar(select(replicas.c.state))) == "usable"
    path.write_bytes(b"RESULT")
    _run(database, FilesDue(file_ids=(file_id,)))
    assert database.transact(lambda tx: tx.scalar(select(replicas.c.state))) == "lost"
