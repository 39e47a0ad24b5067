"""Upkeep: overdue rows come back without storms, silent pilots lose their jobs, limits and ends are put right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from executors.upkeep import deferred, held, housekeeping, reconcile, shell, silence
from pipeline.errors import NotFound
from pipeline.runtime.spec import Context
from pipeline.sandboxes import Sandboxes
from pipeline.settings import Settings
from pipeline.store import jobs, trigger_runs
from pipeline.store import messages as message_store
from pipeline.store.database import Database, Transaction
from pipeline.store.messages import Deferral
from pipeline.store.tables import (
    autoclusters,
    bans,
    campaigns,
    job_events,
    limits,
    pilots,
    requirements,
    sandboxes,
    slots,
)
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.trigger_runs import Run
from pipeline.transport.port import open_transport
from schemas.messages import JobsReceived, JobsWaiting, Message, StepsDue, Tick
from schemas.outcomes import Dead, Done
from schemas.states import JobState
from tests.building import ban, offering, pilot, serving, site
from tests.servers import RedisServer
from tests.submitting import all_jobs, array, move, submit, user
from tests.waiting import eventually


@pytest.fixture
def context(database: Database, redis_server: RedisServer) -> Context:
    redis_server.flush()
    settings = Settings(broker_url=redis_server.url, wake_after=1.0, heartbeat_timeout=10, pilot_lease=20)
    return Context(settings, database, "upkeep")


def _publish(context: Context, messages: Sequence[Message]) -> None:
    transport = open_transport(context.settings.broker_url, "test")
    transport.publish(messages)
    transport.close()


def _ready(context: Context, queue: str = "optimisation") -> int:
    transport = open_transport(context.settings.broker_url, "test")
    try:
        return transport.depth([queue])[queue].ready or 0
    finally:
        transport.close()


def _make_overdue(database: Database) -> None:
    past = {"wake_at": jobs_table.c.created_at}
    database.transact(lambda tx: tx.run(update(jobs_table).where(jobs_table.c.wake_at.is_not(None)).values(past)))


def _ids(messages: Sequence[Message], body: type) -> list[int]:
    return sorted(i for message in messages if isinstance(message.body, body) for i in message.body.ids())


def test_the_queue_of_a_stopped_consumer_does_not_grow(context: Context) -> None:
    context = replace(context, settings=context.settings.model_copy(update={"wake_after": 0.3}))
    submitted = submit(context.database, {"name": "a", **array(1_500)})
    _publish(context, submitted.messages)
    rounds = 0

    def look() -> bool:
        nonlocal rounds
        _publish(context, reconcile.run(context))
        rounds += 1
        overdue = context.database.transact(lambda tx: jobs.overdue(tx, (JobState.RECEIVED,), 10))
        assert _ready(context) == 4
        return rounds >= 20 and not overdue

    eventually(look, within=30, every=0.1)


def test_what_a_broker_lost_is_published_again(context: Context, redis_server: RedisServer) -> None:
    context = replace(context, settings=context.settings.model_copy(update={"wake_after": 60.0}))
    submitted = submit(context.database, {"name": "a", **array(90)})
    _publish(context, submitted.messages)
    redis_server.flush()
    _make_overdue(context.database)
    messages = reconcile.run(context)
    assert _ids(messages, JobsReceived) == [job.id for job in all_jobs(context.database, submitted.campaign_id)]
    assert reconcile.run(context) == [], "the rows have moved on to their next look"


def test_a_dead_letters_rows_are_left_alone(context: Context) -> None:
    submitted = submit(context.database, {"name": "a", **array(3)})
    stamped = update(jobs_table).values(dead_letter_id=1, wake_at=None)
    context.database.transact(lambda tx: tx.run(stamped))
    assert reconcile.run(context) == []
    assert submitted.jobs == 3


def _two_unconfirmed(context: Context) -> list[int]:
    submitted = submit(context.database, {"name": "a", **array(2)})
    ids = [job.id for job in all_jobs(context.database, submitted.campaign_id)]
    move(context.database, ids, JobState.WAITING, JobState.MATCHED, autocluster_id=1)
    moments = {"wake_at": jobs_table.c.created_at}
    context.database.transact(lambda tx: tx.run(update(jobs_table).values(moments)))
    return ids


def test_an_assignment_that_nobody_confirms_goes_back_to_waiting(context: Context) -> None:
    ids = _two_unconfirmed(context)
    serving(context.database, 200)
    context.database.transact(lambda tx: jobs.request_kill(tx, jobs.lock(tx, ids[:1])))
    reconcile.run(context)
    killed, waiting = context.database.transact(lambda tx: jobs.lock(tx, ids))
    assert (killed.state, waiting.state) == (JobState.KILLED, JobState.WAITING)
    assert waiting.pilot_id is None


@pytest.mark.parametrize("served_for", [None, 5.0])
def test_an_assignment_is_kept_while_its_pilot_could_not_confirm_it(context: Context, served_for: float | None) -> None:
    ids = _two_unconfirmed(context)
    if served_for is not None:
        serving(context.database, served_for)
    reconcile.run(context)
    assert {job.state for job in context.database.transact(lambda tx: jobs.lock(tx, ids))} == {JobState.MATCHED}


def test_a_step_whose_last_word_was_lost_is_settled(context: Context) -> None:
    submitted = submit(context.database, {"name": "a"})
    ids = [job.id for job in all_jobs(context.database, submitted.campaign_id)]
    move(context.database, ids, JobState.FAILED)
    messages = reconcile.run(context)
    assert _ids(messages, StepsDue) == [all_jobs(context.database, submitted.campaign_id)[0].step_id]


def test_waiting_jobs_are_reconciled_by_autocluster_against_parked_slots(context: Context) -> None:
    database = context.database
    submitted = submit(database, {"name": "a", **array(5)})
    found = all_jobs(database, submitted.campaign_id)
    requirement = database.transact(lambda tx: tx.add(requirements, signature="s", body="{}"))
    bucket = {"vo_id": found[0].vo_id, "group_id": 1, "owner_id": 1, "job_type": "user"}
    cluster = database.transact(lambda tx: tx.add(autoclusters, requirement_id=requirement, **bucket))
    move(database, [job.id for job in found], JobState.WAITING, autocluster_id=cluster)
    assert _ids(reconcile.run(context), JobsWaiting) == []
    pilot_id = offering(database, site(database), state="parked", wake_at=None)
    assert _ids(reconcile.run(context), JobsWaiting) == [cluster]
    values = {"pilot_id": pilot_id, "state": "running", "cores": 4}
    taking = submit(database, {"name": "b"}).campaign_id
    database.transact(lambda tx: tx.run(update(jobs_table).where(jobs_table.c.campaign_id == taking).values(values)))
    assert _ids(reconcile.run(context), JobsWaiting) == []


def _running_on(database: Database, pilot_id: int, size: int = 1) -> list[int]:
    submitted = submit(database, {"name": "a", **array(size)})
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    move(database, ids, JobState.WAITING, autocluster_id=1)
    move(database, ids, JobState.MATCHED, pilot_id=pilot_id)
    move(database, ids, JobState.RUNNING)
    return ids


def _hear(database: Database, pilot_id: int, *, silent_for: float, serving_for: float) -> None:
    serving(database, serving_for)
    seen = timedelta(seconds=silent_for)
    database.transact(lambda tx: tx.run(update(pilots).where(pilots.c.id == pilot_id).values(last_seen=tx.now - seen)))


@pytest.mark.parametrize(
    ("silent_for", "serving_for", "expected"),
    [
        (5, 100, JobState.RUNNING),
        (15, 100, JobState.STALLED),
        (15, 5, JobState.RUNNING),
        (60, 15, JobState.STALLED),
        (60, 100, JobState.RECEIVED),
    ],
)
def test_silence_counts_only_while_the_api_served(
    context: Context, silent_for: float, serving_for: float, expected: JobState
) -> None:
    database = context.database
    silent = offering(database, site(database))
    (job_id,) = _running_on(database, silent)
    _hear(database, silent, silent_for=silent_for, serving_for=serving_for)
    silence.run(context)
    state = select(jobs_table.c.state).where(jobs_table.c.id == job_id)
    assert database.transact(lambda tx: tx.scalar(state)) == expected
    slots_left = database.transact(lambda tx: tx.scalar(select(func.count()).select_from(slots)))
    assert slots_left == (0 if expected is JobState.RECEIVED else 1)


def test_a_job_to_be_killed_is_killed_when_its_pilot_is_lost(context: Context) -> None:
    database = context.database
    silent = pilot(database, site(database, running=5))
    (job_id,) = _running_on(database, silent)
    database.transact(lambda tx: jobs.request_kill(tx, jobs.lock(tx, [job_id])))
    _hear(database, silent, silent_for=60, serving_for=100)
    messages = silence.run(context)
    assert database.transact(lambda tx: jobs.lock(tx, [job_id]))[0].state is JobState.KILLED
    assert len(_ids(messages, StepsDue)) == 1


def test_when_too_many_fall_silent_together_rescheduling_pauses(context: Context) -> None:
    database = context.database
    at = site(database)
    (job_id,) = _running_on(database, pilot(database, at))
    for _ in range(11):
        pilot(database, at)
    _hear(database, 1, silent_for=60, serving_for=100)
    database.transact(lambda tx: tx.run(update(pilots).values(last_seen=tx.now - timedelta(seconds=60))))
    assert silence.run(context) == []
    assert database.transact(lambda tx: jobs.lock(tx, [job_id]))[0].state is JobState.RUNNING
    others = update(pilots).where(pilots.c.id > 1)
    database.transact(lambda tx: tx.run(others.values(last_seen=tx.now)))
    silence.run(context)
    assert database.transact(lambda tx: jobs.lock(tx, [job_id]))[0].state is JobState.RECEIVED


def test_a_limit_that_drifted_is_put_right(context: Context) -> None:
    database = context.database
    at = site(database, running=5)
    _running_on(database, pilot(database, at), size=2)
    database.transact(lambda tx: tx.run(update(limits).values(running=7)))
    housekeeping.count_limits(context)
    assert database.transact(lambda tx: tx.scalar(select(limits.c.running))) == 2


def test_held_jobs_are_received_again_when_a_ban_ends(context: Context) -> None:
    database = context.database
    submitted = submit(database, {"name": "a", **array(3)})
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    move(database, ids, JobState.HELD)
    ban(database, site(database), until=database.now() + timedelta(hours=1))
    assert held.after_bans(context) == []
    database.transact(lambda tx: tx.run(update(bans).values(until=tx.now - timedelta(seconds=1))))
    assert _ids(held.after_bans(context), JobsReceived) == ids
    assert held.after_bans(context) == []


def test_deferred_messages_are_published_when_they_are_due(context: Context) -> None:
    database = context.database
    body = JobsReceived(job_ids=(1,))
    for delay in (0.0, 3_600.0):
        message = Message.about(body, now=database.now())
        deferral = Deferral(message, "a test", delay)
        database.transact(partial(message_store.defer, deferrals=[deferral], wake_after=1))
    deferred.run(context)
    deferred.run(context)
    assert _ready(context) == 1


def test_what_is_too_old_goes_and_the_rest_stays(context: Context, tmp_path: Path) -> None:
    database = context.database
    old = submit(database, {"name": "a", **array(3)})
    submit(database, {"name": "b", **array(2)})
    over = {"state": "done", "ended_at": database.now() - timedelta(days=40)}
    database.transact(lambda tx: tx.run(update(campaigns).where(campaigns.c.id == old.campaign_id).values(over)))
    blobs = Sandboxes(f"file://{tmp_path / 'blobs'}")
    job_id = all_jobs(database, old.campaign_id)[0].id
    blobs.put_archive("default", job_id, 1, b"archive")
    blobs.put("default", "d" * 64, b"sandbox")
    unused = {"vo_id": user(database).vo_id, "digest": "d" * 64, "size": 7}
    database.transact(lambda tx: tx.add_all(sandboxes, [{**unused, "created_at": tx.after(-40 * 86_400.0)}]))
    housekeeping.purge(replace(context, settings=Settings(sandbox_url=f"file://{tmp_path / 'blobs'}")))
    assert all_jobs(database, old.campaign_id) == []
    assert blobs.newest_archive("default", job_id) is None
    assert not blobs.exists("default", "d" * 64)
    assert database.transact(lambda tx: tx.scalar(select(func.count()).select_from(jobs_table))) == 2
    assert database.transact(lambda tx: tx.scalar(select(func.count()).select_from(job_events))) == 2
    assert not database.transact(lambda tx: tx.rows(select(sandboxes)))


def test_pilots_that_ended_long_ago_go_with_what_they_wrote(context: Context, tmp_path: Path) -> None:
    database = context.database
    at = site(database)
    old, young = pilot(database, at), pilot(database, at)
    blobs = Sandboxes(f"file://{tmp_path / 'blobs'}")
    for pilot_id, days in ((old, 40), (young, 20)):
        blobs.put_pilot_output("default", pilot_id, "begun", "")
        ended = database.now() - timedelta(days=days)
        values = {"state": "done", "ended_at": ended, "output_at": ended}
        database.transact(
            partial(Transaction.run, statement=update(pilots).where(pilots.c.id == pilot_id).values(values))
        )
    housekeeping.purge(replace(context, settings=Settings(sandbox_url=f"file://{tmp_path / 'blobs'}")))
    assert [row.id for row in database.transact(lambda tx: tx.rows(select(pilots.c.id)))] == [young]
    assert blobs.get_pilot_output("default", young) == ("begun", "")
    with pytest.raises(NotFound):
        blobs.get_pilot_output("default", old)


def test_a_tick_of_an_unknown_duty_is_a_dead_letter(context: Context) -> None:
    message = Message.about(Tick(name="dance", scheduled_for=context.database.now()), now=context.database.now())
    (outcome,) = shell.execute(context, [message])
    assert isinstance(outcome, Dead)


def test_ticks_of_one_name_coalesce_and_all_are_executed(context: Context) -> None:
    database = context.database
    now = database.now().replace(microsecond=0)
    runs = [Run("reconcile", now), Run("reconcile", now - timedelta(seconds=30))]
    for run in runs:
        database.transact(partial(trigger_runs.claim, run=run, instance="a"))
    messages = [Message.about(Tick(name=r.name, scheduled_for=r.scheduled_for), now=now) for r in runs]
    assert shell.execute(context, messages) == [Done(), Done()]
    assert not database.transact(lambda tx: trigger_runs.mark_executed(tx, runs[0]))
    assert not database.transact(lambda tx: trigger_runs.mark_executed(tx, runs[1]))
