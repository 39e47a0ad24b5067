"""Matching against real databases: jobs and slots meet once, limits and walls hold, whoever comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, update

from consumers.matching import SPEC as MATCHING
from consumers.optimisation import SPEC as OPTIMISATION
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import job_commands, waiting
from pipeline.store import jobs as jobs_store
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.jobs import Change
from pipeline.store.tables import job_events, jobs, limits, metadata, slots, waiting_jobs
from pipeline.store.waiting import Portion
from schemas.messages import JobsReceived, JobsWaiting, Message, SlotsOffered, StepsDue
from schemas.outcomes import Done
from schemas.states import JobState, PilotState
from tests.building import Site, ban, offering, pilot, site, slot
from tests.servers import MariaDbServer
from tests.submitting import array, submit, user

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _context(database: Database) -> Context:
    return Context(Settings(), database, "test")


def _wait(database: Database, *steps: dict[str, Any], vo: str = "default", subject: str = "alice") -> int:
    """Submit a campaign and take its jobs to `waiting`; its id."""
    submitted = submit(database, *steps, owner=user(database, vo, subject))
    pending = list(submitted.messages)
    while pending:
        pending = _follow_ups(OPTIMISATION.execute(_context(database), pending), JobsReceived)
    return submitted.campaign_id


def _follow_ups(outcomes: Sequence[object], body: type) -> list[Message]:
    done = [outcome for outcome in outcomes if isinstance(outcome, Done)]
    return [message for outcome in done for message in outcome.follow_ups if isinstance(message.body, body)]


def _offer(database: Database, *pilot_ids: int) -> list[Message]:
    """The follow-ups of one SlotsOffered."""
    message = Message.about(SlotsOffered(pilot_ids=pilot_ids), now=NOW)
    (outcome,) = MATCHING.execute(_context(database), [message])
    assert isinstance(outcome, Done)
    return list(outcome.follow_ups)


def _announce(database: Database) -> list[Message]:
    """The follow-ups of JobsWaiting about everything that waits."""
    query = select(waiting_jobs.c.autocluster_id).distinct()
    ids = tuple(row.autocluster_id for row in database.transact(lambda tx: tx.rows(query)))
    (outcome,) = MATCHING.execute(_context(database), [Message.about(JobsWaiting(autocluster_ids=ids), now=NOW)])
    assert isinstance(outcome, Done)
    return list(outcome.follow_ups)


def _indexes(database: Database, pilot_id: int) -> list[int]:
    """The array indexes of the jobs that a pilot got."""
    query = select(jobs.c.array_index).where(jobs.c.pilot_id == pilot_id, jobs.c.state == "matched")
    return [row.array_index for row in database.transact(lambda tx: tx.rows(query.order_by(jobs.c.id)))]


def _slot(database: Database, pilot_id: int) -> tuple[str, object]:
    query = select(slots.c.state, slots.c.wake_at).where(slots.c.pilot_id == pilot_id)
    (row,) = database.transact(lambda tx: tx.rows(query))
    return row.state, row.wake_at


def _running(database: Database, at: Site) -> int:
    query = select(limits.c.running).where(limits.c.subject_id == at.id)
    return int(database.transact(lambda tx: tx.scalar(query)))


def test_a_slot_is_filled_and_its_pilot_finds_the_attempts(database: Database) -> None:
    at = site(database)
    _wait(database, {"name": "a", **array(9)})
    pilot_id = offering(database, at)
    assert _offer(database, pilot_id) == []
    assert _indexes(database, pilot_id) == [0, 1, 2, 3]
    assert _slot(database, pilot_id) == ("served", None)
    rows = database.transact(lambda tx: tx.rows(select(jobs).where(jobs.c.pilot_id == pilot_id)))
    assert {(row.attempt, row.site_id) for row in rows} == {(1, at.id)}
    assert all(row.wake_at is not None for row in rows)
    assert database.transact(lambda tx: tx.scalar(select(func.count()).select_from(waiting_jobs))) == 5


def test_a_slot_that_finds_nothing_is_parked_and_gets_what_becomes_waiting(database: Database) -> None:
    at = site(database)
    pilot_id = offering(database, at)
    assert _offer(database, pilot_id) == []
    assert _slot(database, pilot_id) == ("parked", None)
    _wait(database, {"name": "a"})
    _announce(database)
    assert _indexes(database, pilot_id) == [0]
    assert _slot(database, pilot_id) == ("served", None)


def test_a_repeated_offer_overcommits_nothing(database: Database) -> None:
    at = site(database)
    _wait(database, {"name": "a", "requirements": {"cores": 3}, **array(5)})
    pilot_id = offering(database, at)
    _offer(database, pilot_id)
    database.transact(lambda tx: tx.run(update(slots).values(state="offered")))
    _offer(database, pilot_id)
    assert _indexes(database, pilot_id) == [0]
    assert _slot(database, pilot_id)[0] == "parked"


def test_higher_priority_goes_first_also_within_one_autocluster(database: Database) -> None:
    at = site(database)
    _wait(database, {"name": "low", **array(4)}, {"name": "high", "priority": 5, **array(3)})
    _wait(database, {"name": "middle", "priority": 1}, subject="bob")
    pilot_id = offering(database, at)
    _offer(database, pilot_id)
    query = select(jobs.c.priority).where(jobs.c.pilot_id == pilot_id)
    assert Counter(row.priority for row in database.transact(lambda tx: tx.rows(query))) == {5: 3, 1: 1}


def test_a_whole_node_is_not_split_up_while_a_job_waits_that_fills_it(database: Database) -> None:
    at = site(database)
    _wait(database, {"name": "narrow", **array(3)}, {"name": "wide", "requirements": {"cores": 4}})
    pilot_id = offering(database, at)
    _offer(database, pilot_id)
    query = select(jobs.c.step_id).where(jobs.c.pilot_id == pilot_id)
    assert len(database.transact(lambda tx: tx.rows(query))) == 1


def test_jobs_that_do_not_fit_stay(database: Database) -> None:
    at = site(database, cores=64, memory=99_999, disk=99_999, tags=["gpu"])
    other = site(database, "OTHER")
    _wait(
        database,
        {"name": "cores", "requirements": {"cores": 5}},
        {"name": "memory", "requirements": {"memory": 8_193}},
        {"name": "disk", "requirements": {"disk": 10_241}},
        {"name": "time", "requirements": {"wall_time": 601}},
        {"name": "tags", "requirements": {"tags": ["gpu"]}},
        {"name": "sites", "requirements": {"sites": ["LOCAL"], "wall_time": 60}},
    )
    assert at.id
    pilot_id = offering(database, other, lifetime=600)
    _offer(database, pilot_id)
    assert _indexes(database, pilot_id) == []
    assert database.transact(lambda tx: tx.scalar(select(func.count()).select_from(waiting_jobs))) == 6


def test_a_pilot_gets_jobs_of_its_own_vo_alone(database: Database) -> None:
    at = site(database, vos=("default", "cms"))
    _wait(database, {"name": "a"}, vo="cms")
    mine, theirs = offering(database, at), offering(database, at, vo="cms")
    _offer(database, mine, theirs)
    assert (_indexes(database, mine), _indexes(database, theirs)) == ([], [0])


def test_pilots_that_are_not_to_be_used_get_nothing(database: Database) -> None:
    at, banned = site(database), site(database, "BANNED")
    _wait(database, {"name": "a", **array(9)})
    unusable: list[dict[str, Any]] = [
        {"state": PilotState.DRAINING},
        {"state": PilotState.LOST},
        {"drain_requested": True},
        {"remove_requested": True},
        {"failures_in_row": 5},
        {"last_seen": NOW},
    ]
    ids = [slot(database, pilot(database, at, **columns)) for columns in unusable]
    ids.append(offering(database, banned))
    ban(database, banned)
    _offer(database, *ids)
    assert [_indexes(database, pilot_id) for pilot_id in ids] == [[]] * len(ids)
    assert {_slot(database, pilot_id)[0] for pilot_id in ids} == {"parked"}
    _announce(database)
    assert [_indexes(database, pilot_id) for pilot_id in ids] == [[]] * len(ids)


def test_a_site_limit_is_exact(database: Database) -> None:
    at, free = site(database, running=3), site(database, "FREE")
    _wait(database, {"name": "a", **array(20)})
    limited, other = offering(database, at, cores=8), offering(database, free, cores=8)
    _offer(database, limited, other)
    assert (len(_indexes(database, limited)), len(_indexes(database, other))) == (3, 8)
    assert _running(database, at) == 3
    second = offering(database, at)
    _offer(database, second)
    assert _indexes(database, second) == []


def test_a_killed_job_does_not_start(database: Database) -> None:
    at = site(database)
    campaign_id = _wait(database, {"name": "a", **array(2)})
    job_commands.kill(database, user(database).vo_id, JobFilter(campaign_id=campaign_id))
    pilot_id = offering(database, at)
    _offer(database, pilot_id)
    assert _indexes(database, pilot_id) == []


def test_a_waiting_job_that_somebody_wants_killed_is_killed_instead_of_matched(database: Database) -> None:
    at = site(database)
    _wait(database, {"name": "a"})
    database.transact(lambda tx: tx.run(update(jobs).values(kill_requested=True)))
    follow_ups = _offer(database, offering(database, at))
    assert database.transact(lambda tx: tx.scalar(select(jobs.c.state))) == "killed"
    assert [type(message.body) for message in follow_ups] == [StepsDue]


def test_a_row_whose_job_does_not_wait_does_not_block_the_head(database: Database) -> None:
    at = site(database)
    _wait(database, {"name": "a", **array(3)})
    first = database.transact(lambda tx: tx.scalar(select(func.min(jobs.c.id))))
    database.transact(lambda tx: tx.run(update(jobs).where(jobs.c.id == first).values(state="done")))
    pilot_id = offering(database, at, cores=1)
    _offer(database, pilot_id)
    _offer(database, offering(database, at))
    left = database.transact(lambda tx: tx.rows(select(waiting_jobs)))
    assert [row.job_id for row in left] == []


def test_racing_consumers_match_every_job_once_and_within_the_limit(database: Database) -> None:
    at, limited = site(database), site(database, "LIMITED", running=100)
    _wait(database, {"name": "a", **array(2_000)})
    ids = [offering(database, at if number % 2 else limited, cores=16, memory=99_999, disk=99_999)
           for number in range(200)]  # fmt: skip
    batches = [ids[start : start + 5] for start in range(0, len(ids), 5)]
    with ThreadPoolExecutor(4) as consumers:
        follow_ups = list(consumers.map(lambda batch: _offer(database, *batch), batches))
        list(consumers.map(lambda _: _announce(database) if _remaining(database) else None, range(4)))
    assert follow_ups
    query = select(job_events.c.job_id).where(job_events.c.to_state == "matched")
    matched = [row.job_id for row in database.transact(lambda tx: tx.rows(query))]
    assert len(matched) == len(set(matched))
    assert len(matched) + _remaining(database) == 2_000
    assert len(matched) == 1_700
    assert _running(database, limited) == 100
    per_pilot = select(func.count()).where(jobs.c.pilot_id.is_not(None)).group_by(jobs.c.pilot_id)
    assert max(row[0] for row in database.transact(lambda tx: tx.rows(per_pilot))) <= 16


def _remaining(database: Database) -> int:
    return int(database.transact(lambda tx: tx.scalar(select(func.count()).select_from(waiting_jobs))))


def test_optimisation_and_matching_at_once_leave_no_parked_slot_beside_a_waiting_job(database: Database) -> None:
    at = site(database)
    submitted = submit(database, {"name": "a", **array(60)})
    ids = [job_id for message in submitted.messages for job_id in message.body.ids()]
    pilot_ids = [offering(database, at, cores=1) for _ in ids]
    context = _context(database)
    work: list[Message] = []
    for job_id, pilot_id in zip(ids, pilot_ids, strict=True):
        work.append(Message.about(JobsReceived(job_ids=(job_id,)), now=NOW))
        work.append(Message.about(SlotsOffered(pilot_ids=(pilot_id,)), now=NOW))

    def consume(message: Message) -> list[Message]:
        spec = OPTIMISATION if isinstance(message.body, JobsReceived) else MATCHING
        return [found for outcome in spec.execute(context, [message]) if isinstance(outcome, Done)
                for found in outcome.follow_ups]  # fmt: skip

    with ThreadPoolExecutor(4) as consumers:
        while work:
            work = [message for found in consumers.map(consume, work) for message in found]
    assert _remaining(database) == 0


def _rows_read(tx: Transaction) -> int:
    rows = tx.connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all()
    return sum(int(row[1]) for row in rows)


def test_neither_looking_for_heads_nor_taking_jobs_reads_the_backlog(mariadb_server: MariaDbServer) -> None:
    database = Database(mariadb_server.new_database())
    metadata.create_all(database.engine)
    site(database)
    _wait(database, {"name": "a", **array(10)}, {"name": "b", "priority": -1, **array(10)})
    database.transact(
        lambda tx: tx.connection.exec_driver_sql(
            "INSERT INTO waiting_jobs SELECT id, 0, seq FROM autoclusters, seq_1001_to_21000"
        )
    )

    def work(tx: Transaction) -> tuple[int, list[int]]:
        before = _rows_read(tx)
        (head,) = waiting.heads(tx, {})
        (found,) = waiting.take(tx, [Portion(head, 5)])
        jobs_store.apply(tx, [Change(job, JobState.MATCHED) for job in found])
        assert waiting.next_level(tx, head) is not None
        return _rows_read(tx) - before, [job.id for job in found]

    read, taken = database.transact(work)
    assert len(taken) == 5
    assert read < 500
    database.close()
