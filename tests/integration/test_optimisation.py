"""Optimisation against real databases: what becomes of received jobs, in one transaction per batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, update

from consumers.optimisation import SPEC
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import campaigns as campaign_store
from pipeline.store.database import Database
from pipeline.store.steps import JOBS_PER_MESSAGE
from pipeline.store.tables import autoclusters, datasets, job_specs, jobs, requirements, site_queues, waiting_jobs
from schemas.messages import JobsReceived, Message, StepsDue
from schemas.outcomes import Done
from schemas.states import JobState
from tests.building import ban, file, offering, site
from tests.submitting import all_jobs, array, submit, user

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _optimise(database: Database, ids: Sequence[int]) -> list[Message]:
    """The follow-ups of one message about these jobs."""
    context = Context(Settings(), database, "test")
    outcomes = SPEC.execute(context, [Message.about(JobsReceived(job_ids=tuple(ids)), now=NOW)])
    (outcome,) = outcomes
    assert isinstance(outcome, Done)
    return list(outcome.follow_ups)


def _run(database: Database, *steps: dict[str, Any], **given: Any) -> tuple[int, list[Message]]:
    """Submit and optimise what was published; the campaign's id and the follow-ups."""
    submitted = submit(database, *steps, **given)
    ids = [job_id for message in submitted.messages for job_id in message.body.ids()]
    return submitted.campaign_id, _optimise(database, ids)


def _ends(database: Database, campaign_id: int) -> list[tuple[str, str | None]]:
    query = select(jobs.c.state, jobs.c.reason).where(jobs.c.campaign_id == campaign_id).order_by(jobs.c.id)
    return [(row.state, row.reason) for row in database.transact(lambda tx: tx.rows(query))]


def _count(database: Database, table: Any) -> int:
    return int(database.transact(lambda tx: tx.scalar(select(func.count()).select_from(table))))


def _sites_wanted(database: Database) -> set[str]:
    return {row.body for row in database.transact(lambda tx: tx.rows(select(requirements.c.body)))}


def test_alike_jobs_wait_in_one_autocluster_in_order_of_priority(database: Database) -> None:
    site(database)
    _, follow_ups = _run(database, {"name": "a", "priority": 7, **array(30)}, {"name": "b", **array(5)})
    assert follow_ups == []
    rows = database.transact(lambda tx: tx.rows(select(waiting_jobs)))
    assert Counter(row.descent for row in rows) == {-7: 30, 0: 5}
    assert len({row.autocluster_id for row in rows}) == 1


def test_owners_do_not_share_an_autocluster(database: Database) -> None:
    site(database)
    for name in ("alice", "bob"):
        _run(database, {"name": "a"}, owner=user(database, subject=name))
    assert _count(database, autoclusters) == 2
    assert _count(database, requirements) == 1


def test_parked_slots_are_told_of_waiting_jobs(database: Database) -> None:
    at = site(database)
    offering(database, at, state="parked")
    _, follow_ups = _run(database, {"name": "a", **array(3)})
    assert [message.body.type_name() for message in follow_ups] == ["JobsWaiting"]
    (cluster,) = follow_ups[0].body.ids()
    assert cluster == database.transact(lambda tx: tx.scalar(select(autoclusters.c.id)))


def test_a_message_delivered_again_tells_the_news_again_and_changes_nothing(database: Database) -> None:
    at = site(database)
    offering(database, at, state="parked")
    submitted = submit(database, {"name": "a", **array(JOBS_PER_MESSAGE + 9)}, window=1)
    (message,) = submitted.messages
    first = _optimise(database, message.body.ids())
    again = _optimise(database, message.body.ids())
    assert [m.body.type_name() for m in first] == ["JobsWaiting", "JobsReceived"]
    assert [m.body for m in again] == [first[0].body]
    assert _count(database, waiting_jobs) == JOBS_PER_MESSAGE


def test_the_next_window_is_released_as_the_last_one_moves_on(database: Database) -> None:
    site(database)
    submitted = submit(database, {"name": "a", **array(2 * JOBS_PER_MESSAGE + 9)}, window=1)
    (message,) = submitted.messages
    sizes = []
    pending = list(message.body.ids())
    while pending:
        sizes.append(len(pending))
        pending = [job_id for message in _optimise(database, pending) for job_id in message.body.ids()]
    assert sizes == [JOBS_PER_MESSAGE, JOBS_PER_MESSAGE, 9]
    assert _count(database, waiting_jobs) == sum(sizes)


def test_what_no_site_can_run_is_held_with_the_reason(database: Database) -> None:
    site(database, cores=2)
    campaign_id, _ = _run(database, {"name": "a", "requirements": {"cores": 8}})
    assert _ends(database, campaign_id) == [
        ("held", "no site can run it: LOCAL/local wants cores 8, has 2"),
    ]


def test_a_banned_site_holds_and_an_undeclared_one_is_not_there(database: Database) -> None:
    at = site(database)
    ban_id = ban(database, at, vo="default", queue=True)
    assert ban_id
    campaign_id, _ = _run(database, {"name": "a"})
    ((state, reason),) = _ends(database, campaign_id)
    assert (state, reason) == ("held", "no site can run it: LOCAL/local would, but is banned")
    database.transact(lambda tx: tx.run(update(site_queues).values(declared=False)))
    campaign_id, _ = _run(database, {"name": "a"})
    ((state, reason),) = _ends(database, campaign_id)
    assert (state, reason) == ("held", "no site can run it: no site queue is declared for this VO")


def test_another_vo_does_not_mind_a_ban(database: Database) -> None:
    at = site(database, vos=("default", "cms"))
    ban(database, at, vo="cms")
    campaign_id, _ = _run(database, {"name": "a"})
    assert _ends(database, campaign_id) == [("waiting", None)]


def test_a_job_without_its_input_is_held_and_names_it(database: Database) -> None:
    at = site(database)
    file(database, "/data/0.root", at)
    step = {"name": "a", "inputs": ["/data/{n}.root"], **array(2)}
    campaign_id, _ = _run(database, step)
    assert _ends(database, campaign_id) == [("waiting", None), ("held", "input data not available: /data/1.root")]


def test_jobs_go_only_where_all_of_their_inputs_are(database: Database) -> None:
    here, there = site(database, "HERE"), site(database, "THERE")
    file(database, "/data/both", here, there)
    file(database, "/data/there", there)
    file(database, "/data/here", here)
    campaign_id, _ = _run(
        database,
        {"name": "both", "inputs": ["/data/both"]},
        {"name": "one", "inputs": ["/data/both", "/data/there"]},
        {"name": "none", "inputs": ["/data/here", "/data/there"]},
        {"name": "elsewhere", "inputs": ["/data/here"], "requirements": {"sites": ["THERE"]}},
    )
    ends = _ends(database, campaign_id)
    assert [state for state, _ in ends] == ["waiting", "waiting", "held", "held"]
    assert ends[2][1] == "input data not available: no site has /data/there together with the other inputs"
    assert ends[3][1] == "no site can run it: its inputs are at HERE, its sites are THERE"
    bodies = _sites_wanted(database)
    assert len(bodies) == 2
    assert sum('"sites":["THERE"]' in body for body in bodies) == 1
    assert sum('"sites"' not in body for body in bodies) == 1


def test_outputs_of_an_earlier_step_are_inputs_wherever_they_all_are(database: Database) -> None:
    here, there = site(database, "HERE"), site(database, "THERE")
    steps = ({"name": "make"}, {"name": "merge", "after": ["make"], "inputs": [{"step": "make", "name": "x.root"}]})
    submitted = submit(database, *steps)
    dataset_id = database.transact(lambda tx: tx.scalar(select(func.min(datasets.c.id))))
    file(database, "/out/0/x.root", here, there, dataset_id=dataset_id)
    file(database, "/out/1/x.root", there, dataset_id=dataset_id)
    file(database, "/out/1/log.txt", dataset_id=dataset_id)
    merge = all_jobs(database, submitted.campaign_id)[-1]
    make_run = "UPDATE steps SET state = 'running'"
    with database.engine.begin() as connection:
        connection.exec_driver_sql(make_run)
    _optimise(database, [merge.id])
    assert _ends(database, submitted.campaign_id)[-1] == ("waiting", None)
    assert any('"sites":["THERE"]' in body for body in _sites_wanted(database))


def test_what_can_never_run_fails_and_its_step_is_looked_at(database: Database) -> None:
    site(database)
    campaign_id, follow_ups = _run(database, {"name": "a", "storage": "NOWHERE"})
    assert _ends(database, campaign_id) == [("failed", "there is no storage 'NOWHERE'; there are LOCAL-disk")]
    assert [type(message.body) for message in follow_ups] == [StepsDue]


def test_a_sandbox_that_is_gone_fails_its_jobs(database: Database) -> None:
    site(database)
    submitted = submit(database, {"name": "a"})
    database.transact(lambda tx: tx.run(update(job_specs).values(sandbox="0" * 64)))
    _optimise(database, submitted.messages[0].body.ids())
    assert _ends(database, submitted.campaign_id)[0][0] == "failed"


def test_jobs_of_a_paused_campaign_stay_received_until_it_is_resumed(database: Database) -> None:
    site(database)
    submitted = submit(database, {"name": "a", **array(3)})
    campaign_store.pause(database, submitted.campaign_id)
    assert _optimise(database, submitted.messages[0].body.ids()) == []
    assert {job.state for job in all_jobs(database, submitted.campaign_id)} == {JobState.RECEIVED}
    resumed = campaign_store.resume(database, submitted.campaign_id, window=4, wake_after=30)
    assert [len(message.body.ids()) for message in resumed] == [3]


def test_a_job_that_is_to_be_killed_is_killed(database: Database) -> None:
    site(database)
    submitted = submit(database, {"name": "a"})
    database.transact(lambda tx: tx.run(update(jobs).values(kill_requested=True)))
    follow_ups = _optimise(database, submitted.messages[0].body.ids())
    assert _ends(database, submitted.campaign_id) == [("killed", "killed on request")]
    assert [type(message.body) for message in follow_ups] == [StepsDue]
