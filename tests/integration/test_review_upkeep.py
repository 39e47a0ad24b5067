"""Upkeep beside everybody else: pilots that speak in the meantime, storages that are down, many held jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import pytest
from sqlalchemy import event, select, update

from executors.upkeep import housekeeping, silence
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import held, jobs
from pipeline.store.database import Database, Transaction
from pipeline.store.heartbeats import mark_serving, serving_since
from pipeline.store.steps import JOBS_PER_MESSAGE
from pipeline.store.tables import controls, deletions, pilots, storages
from schemas.states import JobState
from tests.api_server import running_api
from tests.building import pilot, site
from tests.submitting import all_jobs, array, move, submit
from tests.waiting import eventually

T = TypeVar("T")


@pytest.fixture
def context(database: Database) -> Context:
    return Context(Settings(heartbeat_timeout=10, pilot_lease=20), database, "upkeep")


class Interrupted(Database):
    """A database in which something happens after each read."""

    def __init__(self, url: str, then: Callable[[Transaction], object]) -> None:
        super().__init__(url)
        self._then = then

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, then let it happen."""
        result = super().read(work)
        self.transact(self._then)
        return result


@pytest.mark.parametrize("silent_for", [15, 60])
def test_a_pilot_that_speaks_while_silence_is_dealt_with_loses_nothing(context: Context, silent_for: int) -> None:
    database = context.database
    at = site(database)
    pilot_id = pilot(database, at)
    submitted = submit(database, {"name": "a"})
    (job,) = all_jobs(database, submitted.campaign_id)
    move(database, [job.id], JobState.WAITING, autocluster_id=1)
    move(database, [job.id], JobState.MATCHED, pilot_id=pilot_id, site_id=at.id)
    move(database, [job.id], JobState.RUNNING)
    database.transact(lambda tx: mark_serving(tx, 30))
    database.transact(lambda tx: tx.run(update(controls).values(since=tx.now - timedelta(seconds=100))))
    database.transact(lambda tx: tx.run(update(pilots).values(last_seen=tx.now - timedelta(seconds=silent_for))))
    speaking = Interrupted(database.url, lambda tx: tx.run(update(pilots).values(last_seen=tx.now)))
    assert silence.run(replace(context, database=speaking)) == []
    speaking.close()
    assert database.transact(lambda tx: jobs.lock(tx, [job.id]))[0].state is JobState.RUNNING
    assert database.read(lambda tx: tx.scalar(select(pilots.c.state))) == "running"


def test_a_storage_that_is_down_does_not_keep_others_from_deleting(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folders are due for longest, and fill all that one tick looks at."""
    monkeypatch.setattr(housekeeping, "MOST", 3)
    database = context.database
    folder = tmp_path / "up" / "vo" / "a1"
    folder.mkdir(parents=True)

    def add(tx: Transaction) -> None:
        down = tx.add(storages, name="down", kind="file", url=f"file://{tmp_path}/down", declared=True)
        up = tx.add(storages, name="up", kind="file", url=f"file://{tmp_path}/up", declared=True)
        long_due = {"storage_id": down, "due_at": tx.after(-100)}
        tx.add_all(deletions, [{**long_due, "path": f"vo/{n}"} for n in range(3)])
        tx.add(deletions, storage_id=up, path="vo/a1", due_at=tx.after(-1))

    database.transact(add)
    housekeeping.delete_losers(context)
    housekeeping.delete_losers(context)
    assert not folder.exists()
    assert len(database.read(lambda tx: tx.rows(select(deletions.c.id)))) == 3


def test_held_jobs_come_back_in_windows(database: Database) -> None:
    """A hundred thousand of them must not stand in the queue before somebody's ten."""
    submitted = submit(database, {"name": "a", **array(1_200)}, window=1)
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    move(database, ids, JobState.HELD)
    woken = held.wake_held(database, None, window=1, wake_after=30.0)
    assert woken.jobs == 1_200
    assert [message.body.ids() for message in woken.messages] == [tuple(ids[:JOBS_PER_MESSAGE])]
    assert {job.state for job in all_jobs(database, submitted.campaign_id)} == {JobState.RECEIVED}


def test_an_api_goes_on_saying_that_it_serves_after_any_error_of_the_database(tmp_path: Path) -> None:
    """Were it to give up, no pilot's silence would count again until the API is restarted."""
    with running_api(tmp_path, heartbeat_interval=0.2) as api:
        failed = Event()

        def note(_context: Any) -> None:
            failed.set()

        eventually(lambda: api.database.read(lambda tx: serving_since(tx, 1.0)), within=10)
        event.listen(api.database.engine, "handle_error", note)
        with api.database.engine.begin() as connection:
            controls.drop(connection)
        assert failed.wait(10)
        with api.database.engine.begin() as connection:
            controls.create(connection)
        eventually(lambda: api.database.read(lambda tx: serving_since(tx, 1.0)), within=10)
