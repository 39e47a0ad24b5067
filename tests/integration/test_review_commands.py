"""Commands that their process did not live to finish, and rows that a dead letter had stamped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from sqlalchemy import func, select, update

from executors.upkeep import reconcile
from pipeline.errors import Conflict
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import campaigns, job_commands, retention
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.messages import Burial, bury
from pipeline.store.steps import JOBS_PER_MESSAGE
from pipeline.store.tables import campaigns as campaigns_table
from pipeline.store.tables import idempotency_keys, limits, waiting_jobs
from pipeline.store.tables import jobs as jobs_table
from schemas.messages import IdsBody, JobsReceived, Message, OutputsReported, about_ids
from schemas.states import JobState
from tests.building import pilot, serving, site
from tests.servers import RedisServer
from tests.submitting import TO_COMPLETING, User, all_jobs, array, move, submit, user

T = TypeVar("T")


@pytest.fixture
def context(database: Database, redis_server: RedisServer) -> Context:
    redis_server.flush()
    return Context(Settings(broker_url=redis_server.url, wake_after=1.0), database, "upkeep")


class Unsure(Database):
    """A database whose connection breaks at chosen commits: nobody knows whether they succeeded (they did)."""

    def __init__(self, url: str, *broken: int) -> None:
        super().__init__(url)
        self._broken = set(broken)
        self._count = 0

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, and once more where the answer to the commit was lost."""
        self._count += 1
        if self._count in self._broken:
            super().transact(work)
        return super().transact(work)


def _states(database: Database, campaign_id: int) -> list[str]:
    return [job.state.value for job in all_jobs(database, campaign_id)]


def _stamp(database: Database, body: type[IdsBody], ids: list[int]) -> None:
    def work(tx: Transaction) -> None:
        (message,) = about_ids(body, ids, now=tx.now)
        letter = Burial(message.queue, str(message.id), message.type, message.encode(), "dead", 5, message=message)
        bury(tx, [letter])

    database.transact(work)


def test_a_cancel_whose_api_died_is_finished_by_reconcile(context: Context) -> None:
    """Until then its waiting jobs would still have been matched, and run."""
    database = context.database
    at = site(database, running=10)
    submitted = submit(database, {"name": "a", **array(4)}, {"name": "b", "after": ["a"]})
    waiting, matched, held, *_ = [job.id for job in all_jobs(database, submitted.campaign_id)]
    move(database, [waiting], JobState.WAITING, autocluster_id=1)
    move(database, [matched], JobState.WAITING, autocluster_id=1)
    move(database, [matched], JobState.MATCHED, pilot_id=pilot(database, at), site_id=at.id)
    move(database, [held], JobState.HELD)
    campaigns.cancel(database, submitted.campaign_id)
    reconcile.run(context)
    assert _states(database, submitted.campaign_id) == ["killed", "matched", "killed", "killed", "killed"]
    assert all_jobs(database, submitted.campaign_id)[1].kill_requested
    assert database.read(lambda tx: tx.scalar(select(func.count()).select_from(waiting_jobs))) == 0


def test_a_pause_whose_api_died_is_finished_by_reconcile(context: Context) -> None:
    database = context.database
    submitted = submit(database, {"name": "a", **array(2)})
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    campaigns.pause(database, submitted.campaign_id)
    move(database, ids, JobState.WAITING, autocluster_id=1)
    reconcile.run(context)
    assert _states(database, submitted.campaign_id) == ["received", "received"]
    assert campaigns.resume(database, submitted.campaign_id, window=4, wake_after=30.0)


def test_an_assignment_that_nobody_confirms_stays_out_of_matching_while_its_campaign_is_paused(
    context: Context,
) -> None:
    database = context.database
    at = site(database, running=10)
    submitted = submit(database, {"name": "a"})
    (job,) = all_jobs(database, submitted.campaign_id)
    move(database, [job.id], JobState.WAITING, autocluster_id=1)
    move(database, [job.id], JobState.MATCHED, pilot_id=pilot(database, at), site_id=at.id)
    campaigns.pause(database, submitted.campaign_id)
    past = update(jobs_table).values(wake_at=jobs_table.c.created_at)
    database.transact(lambda tx: tx.run(past))
    serving(database, 200)
    reconcile.run(context)
    assert _states(database, submitted.campaign_id) == ["received"]
    assert database.read(lambda tx: tx.scalar(select(limits.c.running))) == 0


def test_a_job_whose_outputs_check_is_a_dead_letter_can_be_killed(database: Database) -> None:
    """Its pilot has reported: nobody else would ever carry the wish out."""
    submitted = submit(database, {"name": "a"})
    (job,) = all_jobs(database, submitted.campaign_id)
    move(database, [job.id], *TO_COMPLETING, autocluster_id=1)
    _stamp(database, OutputsReported, [job.id])
    counted = job_commands.kill(database, job.vo_id, JobFilter(ids=(job.id,)))
    assert (counted.changed, counted.requested) == (1, 0)
    assert _states(database, submitted.campaign_id) == ["killed"]


def test_a_job_that_a_dead_letter_once_named_can_be_retried(database: Database) -> None:
    submitted = submit(database, {"name": "a"})
    (job,) = all_jobs(database, submitted.campaign_id)
    _stamp(database, JobsReceived, [job.id])
    move(database, [job.id], JobState.FAILED)
    counted = job_commands.retry(database, job.vo_id, JobFilter(ids=(job.id,)), window=4, wake_after=30.0)
    assert [message.body.ids() for message in counted.messages] == [(job.id,)]


def test_a_job_that_was_matched_after_all_is_released_again_by_a_resume(database: Database) -> None:
    """A dead letter names it, but it went on; a pause must not leave it behind."""
    submitted = submit(database, {"name": "a"})
    (job,) = all_jobs(database, submitted.campaign_id)
    _stamp(database, JobsReceived, [job.id])
    move(database, [job.id], JobState.WAITING, autocluster_id=1)
    campaigns.pause(database, submitted.campaign_id)
    messages = campaigns.resume(database, submitted.campaign_id, window=4, wake_after=30.0)
    assert [message.body.ids() for message in messages] == [(job.id,)]


def test_jobs_arrive_once_where_the_answer_to_a_commit_is_lost(database: Database) -> None:
    owner = user(database)
    unsure = Unsure(database.url, 3)
    submitted = submit(unsure, {"name": "a", **array(5)}, owner=owner)
    unsure.close()
    assert sorted(job.array_index for job in all_jobs(database, submitted.campaign_id)) == [0, 1, 2, 3, 4]


class Overtaken(Database):
    """A database in which somebody else begins the same submission again before our third transaction."""

    def __init__(self, url: str, owner: User) -> None:
        super().__init__(url)
        self._owner = owner
        self._count = 0
        self.second = 0

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, late."""
        self._count += 1
        if self._count == 3:
            long_ago = update(idempotency_keys).values(
                created_at=select(campaigns_table.c.created_at).scalar_subquery()
            )
            other = Database(self.url)
            other.transact(lambda tx: tx.run(long_ago.values(created_at=tx.after(-3_600))))
            self.second = submit(other, {"name": "a", **array(5)}, owner=self._owner, key="k").campaign_id
            other.close()
        return super().transact(work)


def test_a_submission_that_was_begun_again_meanwhile_is_given_up(database: Database) -> None:
    """Else its jobs would be stored twice, or belong to no campaign."""
    owner = user(database)
    slow = Overtaken(database.url, owner)
    with pytest.raises(Conflict, match="begun again"):
        submit(slow, {"name": "a", **array(5)}, owner=owner, key="k")
    slow.close()
    assert len(all_jobs(database, slow.second)) == 5
    assert database.read(lambda tx: tx.scalar(select(func.count()).select_from(jobs_table))) == 5
    again = submit(database, {"name": "a", **array(5)}, owner=owner, key="k")
    assert again.campaign_id == slow.second


class Slow(Database):
    """A database in which an hour passes before our third transaction, and somebody asks again before our fourth."""

    def __init__(self, url: str, owner: User) -> None:
        super().__init__(url)
        self._owner = owner
        self._count = 0
        self.refused = ""

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, late."""
        self._count += 1
        if self._count == 3:
            super().transact(lambda tx: tx.run(update(idempotency_keys).values(created_at=tx.after(-3_600))))
        if self._count == 4:
            other = Database(self.url)
            with pytest.raises(Conflict) as refused:
                submit(other, {"name": "a", **array(5)}, owner=self._owner, key="k")
            other.close()
            self.refused = str(refused.value)
        return super().transact(work)


def test_a_submission_that_goes_on_is_not_begun_again(database: Database) -> None:
    """However long it takes: each of its transactions says that it lives."""
    owner = user(database)
    slow = Slow(database.url, owner)
    submitted = submit(slow, {"name": "a", **array(5)}, owner=owner, key="k")
    slow.close()
    assert "still arriving" in slow.refused
    assert len(all_jobs(database, submitted.campaign_id)) == 5


def test_a_campaign_that_runs_again_is_not_retired(database: Database) -> None:
    """Retention lists campaigns first, and comes to this one when somebody has retried its failed job."""
    submitted = submit(database, {"name": "a", "min_success": 0.0})
    (job,) = all_jobs(database, submitted.campaign_id)
    long_ago = update(campaigns_table).values(state="done", ended_at=campaigns_table.c.created_at)
    database.transact(lambda tx: tx.run(long_ago))

    class Late(Database):
        """Between the list and the first deletion, the campaign runs again."""

        def read(self, work: Callable[[Transaction], T]) -> T:
            """Run `work`, then let it run again."""
            result = super().read(work)
            super().transact(lambda tx: tx.run(update(campaigns_table).values(state="running", ended_at=None)))
            return result

    late = Late(database.url)
    retention.purge(late, 0.0, lambda _: None)
    late.close()
    assert [kept.id for kept in all_jobs(database, submitted.campaign_id)] == [job.id]


def _messages(messages: list[Message]) -> list[int]:
    return sorted(i for message in messages for i in message.body.ids())


def test_a_window_that_was_killed_is_opened_again_although_one_job_cools_off(context: Context) -> None:
    """Its wake lies an hour ahead; the others would have waited for it."""
    database = context.database
    submitted = submit(database, {"name": "a", **array(3 * JOBS_PER_MESSAGE)}, window=1)
    ids = [job.id for job in all_jobs(database, submitted.campaign_id)]
    last = JOBS_PER_MESSAGE - 1
    move(database, ids[:last], JobState.KILLED)
    move(database, ids[last : last + 1], JobState.WAITING, autocluster_id=1)
    move(database, ids[last : last + 1], JobState.MATCHED)
    move(database, ids[last : last + 1], JobState.RECEIVED, payload_failures=1)
    cooling = update(jobs_table).where(jobs_table.c.id == ids[last])
    database.transact(lambda tx: tx.run(cooling.values(wake_at=tx.after(3_600))))
    assert _messages(reconcile.run(context)) == ids[last + 1 :]
    assert _messages(reconcile.run(context)) == []
