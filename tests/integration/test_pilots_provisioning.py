"""Pilots from the demand to their end: rows, the local batch system, and a real pilot against a real API."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from executors.pilots.rounds import Rounds
from executors.pilots.shell import execute
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import jobs
from pipeline.store.database import Database, Transaction
from pipeline.store.jobs import Change
from pipeline.store.tables import controls, enrolments, pilots, site_queues, slots
from schemas.messages import Body, Message, ProvisioningDue
from schemas.outcomes import Done
from schemas.states import JobState, PilotState
from tests.api_server import running_api
from tests.outside.stage import OUTSIDE
from tests.pilot_rows import autocluster
from tests.site_queues import FAILING, SLEEPING, declare_queues, open_local, pilot_rows, queue_rows, remove_local
from tests.submitting import all_jobs, array, move, submit
from tests.waiting import eventually


@pytest.fixture
def context(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.syspath_prepend(OUTSIDE)
    settings = Settings(data_dir=tmp_path, api_url="http://127.0.0.1:1")
    yield Context(settings, database, "tester")
    remove_local(tmp_path)


def declare(database: Database, data_dir: Path, kind: dict[str, Any], *more: str, **entry: Any) -> None:
    """A site with the queue `q` (and sleeping ones of the names in `more`)."""
    queue = {"name": "q", **kind, "max_pilots": 5, "max_pending_pilots": 5, **entry}
    declare_queues(database, data_dir, queue, *({**SLEEPING, "name": name} for name in more))


def want(database: Database, many: int, **step: Any) -> int:
    """So many waiting jobs; their campaign."""
    submitted = submit(database, {"name": "s", **array(many), **step})
    found = all_jobs(database, submitted.campaign_id)
    values = {"autocluster_id": autocluster(database, found[0])}
    move(database, [job.id for job in found], JobState.WAITING, **values)
    return submitted.campaign_id


def run(context: Context, *bodies: Body) -> list[Message]:
    """Execute a batch of these bodies; its follow-ups."""
    now = context.database.now()
    outcomes = execute(context, [Message.about(body, now=now) for body in bodies])
    return [message for outcome in outcomes if isinstance(outcome, Done) for message in outcome.follow_ups]


def cycle(context: Context, number: int) -> list[Message]:
    """Plan a cycle and carry it out."""
    due = run(context, ProvisioningDue(cycle=number))
    return run(context, *(message.body for message in due)) if due else []


def states(database: Database) -> list[str]:
    return [row.state for row in pilot_rows(database)]


def tags(database: Database) -> list[str]:
    return [row.tag for row in pilot_rows(database)]


def test_a_cycle_is_planned_once_however_often_its_message_comes(context: Context) -> None:
    database = context.database
    declare(database, context.settings.data_dir, SLEEPING)
    want(database, 3)
    first = run(context, ProvisioningDue(cycle=5))
    again = run(context, ProvisioningDue(cycle=5))
    assert [m.body for m in first] == [m.body for m in again] != []
    assert run(context, ProvisioningDue(cycle=4)) == []
    assert states(database) == ["requested"] * 3


def test_requested_pilots_are_submitted_followed_and_removed_when_the_demand_is_gone(context: Context) -> None:
    database = context.database
    declare(database, context.settings.data_dir, SLEEPING)
    campaign_id = want(database, 2)
    cycle(context, 1)
    assert states(database) == ["submitted", "submitted"]
    cycle(context, 2)
    assert states(database) == ["queued", "queued"]
    move(database, [job.id for job in all_jobs(database, campaign_id)], JobState.KILLED)
    cycle(context, 3)
    assert states(database) == ["queued", "queued"]
    cycle(context, 4)
    cycle(context, 5)
    assert states(database) == ["removed", "removed"]


def test_a_submission_that_was_not_noted_is_adopted_and_not_repeated(context: Context) -> None:
    database = context.database
    declare(database, context.settings.data_dir, SLEEPING)
    want(database, 2)
    cycle(context, 1)
    lost = update(pilots).values(state=PilotState.REQUESTED, submitted_at=None, batch_id=None)
    database.transact(lambda tx: tx.run(lost))
    secrets = len(database.transact(lambda tx: tx.rows(select(enrolments.c.id))))
    cycle(context, 2)
    assert states(database) == ["submitted", "submitted"]
    assert len(database.transact(lambda tx: tx.rows(select(enrolments.c.id)))) == secrets
    assert [row.batch_id for row in pilot_rows(database)] == tags(database)


def test_a_queue_whose_pilots_fail_to_start_backs_off_and_its_neighbour_does_not(context: Context) -> None:
    database = context.database
    declare(database, context.settings.data_dir, FAILING, "other", max_pilots=1)
    want(database, 4)
    cycle(context, 1)
    system = open_local(context.settings.data_dir)
    mine = select(pilots.c.tag).join(site_queues, site_queues.c.id == pilots.c.site_queue_id)
    (tag,) = (row.tag for row in database.transact(lambda tx: tx.rows(mine.where(site_queues.c.name == "q"))))
    eventually(lambda: system.poll([tag])[tag].exit_code == 3)
    cycle(context, 2)
    rows = queue_rows(database)
    assert [(row.name, row.failures, row.backoff_until is not None) for row in rows] == [
        ("q", 1, True),
        ("other", 0, False),
    ]
    assert "exit code 3" in rows[0].reason
    assert sorted(states(database)) == ["failed", "queued"]
    cycle(context, 3)
    assert sorted(states(database)) == ["failed", "queued"]
    open_local(context.settings.data_dir, "other").remove(tags(database))


def test_an_unknown_batch_system_makes_its_queue_back_off(context: Context) -> None:
    database = context.database
    declare(database, context.settings.data_dir, {}, batch_system="abacus")
    want(database, 1)
    cycle(context, 1)
    (row,) = queue_rows(database)
    assert (row.failures, row.lease_owner) == (1, None)
    assert "no batch system 'abacus'" in row.reason


def test_two_consumers_carry_a_queue_out_one_at_a_time(context: Context) -> None:
    database = context.database
    declare(database, context.settings.data_dir, SLEEPING)
    want(database, 4)
    due = [queue_id for message in run(context, ProvisioningDue(cycle=1)) for queue_id in message.body.ids()]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: Rounds().carry_out(context, due), range(4)))
    Rounds().carry_out(context, due)
    uses = database.transact(lambda tx: tx.rows(select(enrolments.c.uses_left)))
    assert [row.uses_left for row in uses] == [4]


def test_an_enrolled_pilot_that_ended_in_silence_loses_its_jobs(context: Context) -> None:
    database = context.database
    declare(database, context.settings.data_dir, FAILING)
    campaign_id = want(database, 1)
    cycle(context, 1)
    (tag,) = tags(database)
    system = open_local(context.settings.data_dir)
    eventually(lambda: system.poll([tag])[tag].exit_code == 3)
    _serve_for_an_hour(database)
    now = database.now()
    seen = {"token_digest": "x", "state": PilotState.RUNNING, "last_seen": now}
    database.transact(lambda tx: tx.run(update(pilots).values(**seen)))
    (pilot,) = pilot_rows(database)
    place = {"pilot_id": pilot.id, "site_id": pilot.site_id}
    move(database, [job.id for job in all_jobs(database, campaign_id)], JobState.MATCHED, **place)
    cycle(context, 2)
    assert states(database) == ["running"]
    silent = database.transact(lambda tx: tx.after(-500))
    database.transact(lambda tx: tx.run(update(pilots).values(last_seen=silent)))
    messages = cycle(context, 3)
    assert states(database) == ["failed"]
    (job,) = all_jobs(database, campaign_id)
    assert (job.state, job.infrastructure_losses) == (JobState.RECEIVED, 1)
    assert [message.queue for message in messages] == ["optimisation"]


def _serve_for_an_hour(database: Database) -> None:
    row = {"name": "api_serving", "value": 1}
    database.transact(lambda tx: tx.add(controls, **row, since=tx.after(-3600), at=tx.now))


def test_a_real_pilot_is_provisioned_runs_its_job_and_reports(tmp_path: Path) -> None:
    with running_api(tmp_path, heartbeat_interval=0.5, pilot_idle_limit=2.0) as api:
        database = api.database
        settings = api.services.settings.model_copy(update={"api_url": api.url})
        context = Context(settings, database, "tester")
        declare(database, tmp_path, {}, cores=2)
        campaign_id = want(database, 2, command=["sh", "-c", "echo {n} > out.txt"], outputs=["out.txt"])
        try:
            cycle(context, 1)
            assert states(database) == ["submitted"]
            found = eventually(lambda: database.transact(lambda tx: tx.rows(select(slots))), within=30)
            _assign(database, campaign_id, found[0].pilot_id)
            eventually(
                lambda: {job.state for job in all_jobs(database, campaign_id)} == {JobState.COMPLETING}, within=30
            )
            outputs = sorted((tmp_path / "storage").rglob("out.txt"))
            assert sorted(path.read_text() for path in outputs) == ["0\n", "1\n"]
            eventually(lambda: states(database) == ["done"], within=30)
            assert database.transact(lambda tx: tx.rows(select(slots))) == []
        finally:
            remove_local(tmp_path)


def _assign(database: Database, campaign_id: int, pilot_id: int) -> None:
    """As matching does."""
    site_id = database.transact(lambda tx: tx.scalar(select(pilots.c.site_id).where(pilots.c.id == pilot_id)))
    place = (("pilot_id", pilot_id), ("site_id", site_id))
    ids = [job.id for job in all_jobs(database, campaign_id)]

    def work(tx: Transaction) -> None:
        jobs.apply(tx, [Change(job, JobState.MATCHED, values=place) for job in jobs.lock(tx, ids)])
        tx.run(update(slots).where(slots.c.pilot_id == pilot_id).values(state="served", wake_at=None))

    database.transact(work)
