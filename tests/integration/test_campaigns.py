"""Campaigns in the store: taken in whole, released in windows, paused, cancelled, accepted, retried."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from executors.data.steps_due import settle
from pipeline.errors import BadInput, Conflict
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import campaigns, job_commands, jobs, steps
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.jobs import Change
from pipeline.store.optimisation import running_steps
from pipeline.store.steps import JOBS_PER_MESSAGE
from pipeline.store.tables import campaigns as campaigns_table
from pipeline.store.tables import job_events, waiting_jobs
from pipeline.store.tables import jobs as jobs_table
from schemas.states import JOB_TRANSITIONS, JobState
from tests.submitting import TO_COMPLETING, WAKE_AFTER, all_jobs, array, move, step_states, submit, user


def _states(database: Database, campaign_id: int) -> dict[str, int]:
    query = select(jobs_table.c.state, func.count().label("many")).where(jobs_table.c.campaign_id == campaign_id)
    rows = database.transact(lambda tx: tx.rows(query.group_by(jobs_table.c.state)))
    return {row.state: row.many for row in rows}


def _campaign_state(database: Database, campaign_id: int) -> str:
    query = select(campaigns_table.c.state).where(campaigns_table.c.id == campaign_id)
    return str(database.transact(lambda tx: tx.scalar(query)))


def _settle(database: Database, campaign_id: int) -> None:
    context = Context(Settings(), database, "test")
    settle(context, sorted({job.step_id for job in all_jobs(database, campaign_id)}))


def test_a_window_of_a_large_campaign_is_published_and_the_rest_waits(database: Database) -> None:
    submitted = submit(database, {"name": "a", **array(2 * JOBS_PER_MESSAGE + 200)}, window=2)
    assert [len(message.body.ids()) for message in submitted.messages] == [JOBS_PER_MESSAGE, JOBS_PER_MESSAGE]
    query = select(func.count()).where(jobs_table.c.wake_at.is_(None))
    assert database.transact(lambda tx: tx.scalar(query)) == 200


def test_every_job_of_a_submission_has_its_first_event(database: Database) -> None:
    submitted = submit(database, {"name": "a", **array(25)}, {"name": "b", **array(7)})
    query = select(func.count(func.distinct(job_events.c.job_id))).where(job_events.c.to_state == "received")
    assert database.transact(lambda tx: tx.scalar(query)) == submitted.jobs == 32


def test_a_repeated_submission_stores_nothing_twice(database: Database) -> None:
    first = submit(database, {"name": "a", **array(3)}, key="k")
    again = submit(database, {"name": "a", **array(3)}, key="k")
    assert again.campaign_id == first.campaign_id
    assert not again.messages
    assert len(all_jobs(database, first.campaign_id)) == 3
    with pytest.raises(Conflict, match="belongs to another request"):
        submit(database, {"name": "a"}, key="k", digest="other")


def test_a_submission_that_died_half_way_is_begun_again_with_its_key(database: Database) -> None:
    first = submit(database, {"name": "a", **array(3)}, key="k")
    arriving = update(campaigns_table).where(campaigns_table.c.id == first.campaign_id).values(state="arriving")
    database.transact(lambda tx: tx.run(arriving))
    with pytest.raises(Conflict, match="still arriving"):
        submit(database, {"name": "a", **array(3)}, key="k")


def test_steps_are_released_in_order_and_the_campaign_ends(database: Database) -> None:
    submitted = submit(database, {"name": "a", **array(2)}, {"name": "b", "after": ["a"]})
    first = [job.id for job in all_jobs(database, submitted.campaign_id)][:2]
    assert step_states(database, submitted.campaign_id) == {("a", 1): "running", ("b", 1): "open"}
    move(database, first, *TO_COMPLETING, JobState.DONE, autocluster_id=1)
    _settle(database, submitted.campaign_id)
    assert step_states(database, submitted.campaign_id) == {("a", 1): "closed", ("b", 1): "running"}
    last = [job.id for job in all_jobs(database, submitted.campaign_id)][2:]
    move(database, last, *TO_COMPLETING, JobState.DONE, autocluster_id=1)
    _settle(database, submitted.campaign_id)
    assert _campaign_state(database, submitted.campaign_id) == "done"


def test_a_step_below_its_minimum_blocks_until_it_is_accepted(database: Database) -> None:
    submitted = submit(database, {"name": "a"}, {"name": "b", "after": ["a"]})
    move(database, [all_jobs(database, submitted.campaign_id)[0].id], JobState.FAILED)
    _settle(database, submitted.campaign_id)
    assert step_states(database, submitted.campaign_id) == {("a", 1): "blocked", ("b", 1): "open"}
    assert _campaign_state(database, submitted.campaign_id) == "blocked"
    with pytest.raises(BadInput, match="no step 'c'"):
        campaigns.accept(database, submitted.campaign_id, "c", window=4, wake_after=WAKE_AFTER)
    messages = campaigns.accept(database, submitted.campaign_id, "a", window=4, wake_after=WAKE_AFTER)
    assert len(messages) == 1
    assert step_states(database, submitted.campaign_id) == {("a", 1): "closed", ("b", 1): "running"}


def test_a_blocked_step_runs_again_when_its_failed_jobs_are_retried(database: Database) -> None:
    submitted = submit(database, {"name": "a"})
    move(database, [all_jobs(database, submitted.campaign_id)[0].id], JobState.FAILED)
    _settle(database, submitted.campaign_id)
    chosen = JobFilter(campaign_id=submitted.campaign_id)
    counted = job_commands.retry(database, user(database).vo_id, chosen, window=4, wake_after=WAKE_AFTER)
    assert (counted.changed, len(counted.messages)) == (1, 1)
    assert step_states(database, submitted.campaign_id) == {("a", 1): "running"}
    assert _campaign_state(database, submitted.campaign_id) == "running"


def test_a_retry_after_closing_makes_one_new_version_of_the_step(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_commands, "JOBS_PER_TRANSACTION", 2)
    submitted = submit(database, {"name": "a", **array(5), "min_success": 0.0})
    move(database, [job.id for job in all_jobs(database, submitted.campaign_id)], JobState.FAILED)
    _settle(database, submitted.campaign_id)
    assert _campaign_state(database, submitted.campaign_id) == "done"
    counted = job_commands.retry(database, user(database).vo_id, JobFilter(), window=4, wake_after=WAKE_AFTER)
    assert counted.changed == 5
    assert step_states(database, submitted.campaign_id) == {("a", 1): "closed", ("a", 2): "running"}
    assert len({job.step_id for job in all_jobs(database, submitted.campaign_id)}) == 1


def test_a_pause_withdraws_waiting_jobs_and_resuming_releases_them(database: Database) -> None:
    submitted = submit(database, {"name": "a", **array(6)})
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    move(database, ids[:4], JobState.WAITING, autocluster_id=1)
    move(database, ids[:1], JobState.MATCHED)
    campaigns.pause(database, submitted.campaign_id)
    assert _states(database, submitted.campaign_id) == {"matched": 1, "received": 5}
    assert database.transact(lambda tx: tx.scalar(select(func.count()).select_from(waiting_jobs))) == 0
    assert database.transact(steps.starved_steps) == []
    with pytest.raises(Conflict, match="is paused"):
        campaigns.pause(database, submitted.campaign_id)
    messages = campaigns.resume(database, submitted.campaign_id, window=4, wake_after=WAKE_AFTER)
    assert sorted(i for message in messages for i in message.body.ids()) == ids[1:4]


def test_a_pause_waits_for_an_optimisation_that_has_seen_the_campaign_run(database: Database) -> None:
    submitted = submit(database, {"name": "a"})
    (job,) = all_jobs(database, submitted.campaign_id)
    order: list[str] = []

    def pause() -> None:
        campaigns.pause(database, submitted.campaign_id)
        order.append("paused")

    with ThreadPoolExecutor(1) as pool:

        def optimise(tx: Transaction) -> None:
            assert running_steps(tx, [job.step_id])
            pausing = pool.submit(pause)
            with pytest.raises(TimeoutError):
                pausing.result(0.3)
            jobs.apply(tx, [Change(job, JobState.WAITING, values=(("autocluster_id", 1),))])
            order.append("waiting")

        database.transact(optimise)
    assert order == ["waiting", "paused"]
    assert _states(database, submitted.campaign_id) == {"received": 1}


def test_a_cancelled_campaign_releases_nothing_more(database: Database) -> None:
    submitted = submit(database, {"name": "a"}, {"name": "b", "after": ["a"]})
    campaigns.cancel(database, submitted.campaign_id)
    killed = job_commands.kill(database, user(database).vo_id, JobFilter(campaign_id=submitted.campaign_id))
    assert killed.changed == 2
    assert set(step_states(database, submitted.campaign_id).values()) == {"cancelled"}
    with pytest.raises(Conflict):
        campaigns.cancel(database, submitted.campaign_id)


def test_a_kill_waits_for_the_pilot_of_a_job_that_is_on_one(database: Database) -> None:
    submitted = submit(database, {"name": "a", **array(4)})
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    move(database, ids[1:], JobState.WAITING, autocluster_id=1)
    move(database, ids[2:], JobState.MATCHED)
    counted = job_commands.kill(database, user(database).vo_id, JobFilter(ids=tuple(ids)))
    assert (counted.changed, counted.requested) == (2, 2)
    after = {job.id: job for job in all_jobs(database, submitted.campaign_id)}
    assert [after[i].state for i in ids] == [JobState.KILLED, JobState.KILLED, JobState.MATCHED, JobState.MATCHED]
    assert [after[i].kill_requested for i in ids[2:]] == [True, True]


def test_a_vo_can_not_kill_the_jobs_of_another(database: Database) -> None:
    submitted = submit(database, {"name": "a"})
    other = user(database, vo="other")
    assert job_commands.kill(database, other.vo_id, JobFilter()).changed == 0
    assert _states(database, submitted.campaign_id) == {"received": 1}


def test_a_lost_window_is_found_and_opened_again(database: Database) -> None:
    submitted = submit(database, {"name": "a", **array(10)}, window=1)
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    assert database.transact(steps.starved_steps) == []
    database.transact(lambda tx: jobs.set_wake_at(tx, ids, None))
    (step_id,) = database.transact(steps.starved_steps)
    assert step_id == all_jobs(database, submitted.campaign_id)[0].step_id


@pytest.mark.parametrize("state", [s for s in JobState if s not in JOB_TRANSITIONS[JobState.RECEIVED]])
def test_a_transition_that_the_table_forbids_changes_nothing(database: Database, state: JobState) -> None:
    submitted = submit(database, {"name": "a"})
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    with pytest.raises(ValueError, match="may not go"):
        move(database, ids, state)
    assert _states(database, submitted.campaign_id) == {"received": 1}
