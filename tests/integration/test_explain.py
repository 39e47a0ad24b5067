"""Hot statements use the index that was meant for them: as they are really sent, explained by MariaDB.

The tables hold some thousands of rows, which is enough for the optimiser to choose as it does with millions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from sqlalchemy import delete, event

from pipeline.errors import Conflict
from pipeline.store import (
    event_counts,
    job_commands,
    jobs,
    limits,
    matching,
    measures,
    offers,
    pilot_commands,
    pilot_counts,
    pilot_queries,
    pilot_requests,
    reconcile,
    recount,
    releases,
    usage,
    waiting,
)
from pipeline.store.assignments import Assignment, assign
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.jobs import Change
from pipeline.store.matching import Alive, Kinds
from pipeline.store.pilot_commands import PilotFilter
from pipeline.store.tables import job_events, metadata
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.usage import Booking
from pipeline.store.waiting import Portion
from schemas.pilot_views import PilotQuery
from schemas.states import JobState, PilotState
from tests import building
from tests.servers import MariaDbServer
from tests.submitting import submit, user

LARGE = frozenset({"jobs", "waiting_jobs", "slots", "pilots", "job_events", "releases", "limits", "usage"})
"""Tables that may hold many rows: none may be read as a whole, nor sorted."""
HALF_LIFE = 86_400.0
ALIVE = Alive(120.0, 5)


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a plan."""

    table: str
    kind: str
    key: str | None
    extra: str
    statement: str


@dataclass(frozen=True, slots=True)
class World:
    """Some thousands of everything."""

    database: Database
    vo_id: int
    site_id: int

    def plans(self, work: Callable[[Transaction], object]) -> list[Step]:
        """How MariaDB carries out each statement that `work` sends. Nothing of it is committed."""
        with self.database.engine.connect() as connection:
            now = self.database.now()
            sent = self.sent(lambda: work(Transaction(connection, now)))
            connection.rollback()
            return [step for statement, parameters in sent for step in _explained(connection, statement, parameters)]

    def explained(self, sent: Sequence[tuple[str, Any]]) -> list[Step]:
        """How MariaDB carries out statements that have been sent."""
        with self.database.engine.connect() as connection:
            return [step for statement, parameters in sent for step in _explained(connection, statement, parameters)]

    def sent(self, work: Callable[[], object]) -> list[tuple[str, Any]]:
        """The statements that are sent meanwhile, with their parameters."""
        found: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool) -> None:
            found.append((statement, parameters[0] if executemany else parameters))

        event.listen(self.database.engine, "before_cursor_execute", note)
        try:
            work()
        finally:
            event.remove(self.database.engine, "before_cursor_execute", note)
        return found


def _explained(connection: Any, statement: str, parameters: Any) -> list[Step]:
    rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings().all()
    return [
        Step(row["table"] or "", row["type"] or "", row["key"], row["Extra"] or "", statement)
        for row in rows
        if row["table"] is not None
    ]


_BULK = """
INSERT INTO requirements (id, signature, body) VALUES (1, 'plain', '{{}}');
INSERT INTO autoclusters (id, requirement_id, vo_id, group_id, owner_id, job_type)
    SELECT seq, 1, {vo}, 1, seq, 'user' FROM seq_1_to_200;
INSERT INTO jobs (id, vo_id, campaign_id, step_id, spec_id, array_index, state, autocluster_id, created_at, changed_at)
    SELECT seq, {vo}, 1, 1 + seq MOD 20, 1, seq, 'waiting', 1 + seq MOD 200, {now}, {now} FROM seq_1_to_12000;
INSERT INTO waiting_jobs SELECT autocluster_id, 0, id FROM jobs;
INSERT INTO pilots (id, tag, site_queue_id, site_id, vo_id, state, cores, requested_at, last_seen)
    SELECT seq, concat('pilot-', seq), {queue}, {site}, {vo}, if(seq MOD 40, 'done', 'running'), 8, {now}, {now}
    FROM seq_1_to_8000;
INSERT INTO slots (pilot_id, vo_id, state, cores, memory, disk, ends_at, offered_at, wake_at)
    SELECT id, {vo}, if(id MOD 20, 'offered', if(id MOD 3, 'parked', 'served')), 8, 16000, 16000,
    {now} + INTERVAL 1 DAY, {now}, {now} + INTERVAL id SECOND - INTERVAL 100 SECOND FROM pilots;
INSERT INTO jobs (id, vo_id, campaign_id, step_id, spec_id, array_index, state, autocluster_id, attempt, created_at,
    changed_at, pilot_id, site_id, cores, memory, disk, gpus, charge, matched_at, wake_at)
    SELECT seq, {vo}, 1, 1 + seq MOD 20, 1, seq, 'matched', 1 + seq MOD 200, 1, {now}, {now}, 1 + seq MOD 4000,
    {site}, 1, 1000, 1000, 0, 3600, {now}, {now} + INTERVAL seq SECOND - INTERVAL 12100 SECOND FROM seq_12001_to_16000;
INSERT INTO jobs (id, vo_id, campaign_id, step_id, spec_id, array_index, state, created_at, changed_at)
    SELECT seq, {vo}, 1, 1 + seq MOD 20, 1, seq, 'received', {now}, {now} FROM seq_16001_to_20000;
INSERT INTO releases (job_id, autocluster_id, site_id, cores, charge, is_started, matched_at, ended_at)
    SELECT seq, 1 + seq MOD 200, {site}, 1, 3600, 1, {now}, {now} FROM seq_1_to_8000;
INSERT INTO job_events (job_id, attempt, from_state, to_state, pilot_id, at)
    SELECT 1 + seq MOD 9000, 1, 'running', if(seq MOD 9, 'completing', 'failed'), 1 + seq MOD 4000, {now}
    FROM seq_1_to_30000;
INSERT INTO attempts (job_id, attempt, outcome, wall_time, cpu_time, memory, ended_at)
    SELECT seq, 1, 'payload_failed', 1, 1, 1, {now} FROM seq_1_to_9000;
INSERT INTO limits (kind, subject_id, maximum, running) SELECT 'site', 1000 + seq, 100, 0 FROM seq_1_to_3000;
INSERT INTO `usage` (vo_id, group_id, owner_id, weight, landmark)
    SELECT {vo}, 1, seq, 0, {now} FROM seq_1_to_3000;
ANALYZE TABLE jobs, waiting_jobs, pilots, slots, releases, limits, `usage`, autoclusters, requirements, job_events,
    attempts
"""


@pytest.fixture(scope="module")
def world(mariadb_server: MariaDbServer) -> Iterator[World]:
    database = Database(mariadb_server.new_database())
    metadata.create_all(database.engine)
    site = building.site(database, running=100)
    vo_id = user(database).vo_id
    submit(database, {"name": "a"})
    database.transact(lambda tx: [tx.run(delete(table)) for table in (jobs_table, job_events)])
    words = {"vo": vo_id, "site": site.id, "queue": site.queue_id, "now": "utc_timestamp(6)"}
    with database.engine.begin() as connection:
        for statement in _BULK.format(**words).split(";"):
            connection.exec_driver_sql(statement)
    yield World(database, vo_id, site.id)
    database.close()
    mariadb_server.drop_database(database.url)


def _take(tx: Transaction) -> None:
    (first, second, *_) = waiting.heads(tx, {})
    waiting.take(tx, [Portion(first, 20, after=200), Portion(second, 1, until=5_000)])


def _assign(tx: Transaction) -> None:
    found = jobs.lock_waiting(tx, range(1, 200))
    given = [Assignment(job, 1 + job.id % 7, 1, 1, 1_000, 1_000, 0, 0, 3_600) for job in found]
    assign(tx, given, tx.after(60))


def _return(tx: Transaction) -> None:
    found = jobs.lock(tx, range(12_001, 12_100))
    jobs.apply(tx, [Change(job, JobState.WAITING, f"unconfirmed {job.id}") for job in found])


def _limits(tx: Transaction) -> None:
    known = limits.of(tx, [1], range(1_001, 1_050))
    limits.move(tx, limits.lock(tx, known), {limit.id: 1 for limit in known})


def _usage(tx: Transaction) -> None:
    usage.book(tx, {(1, 1, owner): [Booking(5, tx.now, charged=5)] for owner in range(10, 60)}, HALF_LIFE)


def _show_pilots(tx: Transaction, vo_id: int) -> None:
    pilot_queries.list_pilots(tx, vo_id, PilotQuery(), most=101, max_failures=5)
    pilot_queries.show_pilot(tx, vo_id, 5, max_failures=5)
    pilot_queries.want_output(tx, vo_id, 5)


def _head(tx: Transaction) -> None:
    waiting.heads(tx, {}, [3, 4, 5])


def _next(tx: Transaction) -> None:
    (head, *_) = waiting.heads(tx, {}, [3])
    waiting.next_level(tx, head)


def _lower(tx: Transaction) -> None:
    waiting.lower_levels(tx, waiting.heads(tx, {}))


SORTS_FEW = {"jobs of a pilot"}
"""A pilot's jobs are as many as it has cores; they are locked in order of their ids."""
HOT: dict[str, tuple[Callable[[Transaction], object], dict[str, set[str | None]]]] = {
    "heads of all autoclusters": (lambda tx: waiting.heads(tx, {}), {"waiting_jobs": {"PRIMARY"}, "jobs": {"PRIMARY"}}),
    "heads of some": (_head, {"waiting_jobs": {"PRIMARY"}, "jobs": {"PRIMARY"}}),
    "heads of all others": (
        lambda tx: waiting.heads(tx, {}, but=range(1, 190)),
        {"waiting_jobs": {"PRIMARY"}, "jobs": {"PRIMARY"}},
    ),
    "the next level": (_next, {"waiting_jobs": {"PRIMARY"}, "jobs": {"PRIMARY"}}),
    "lower levels of all": (_lower, {"waiting_jobs": {"PRIMARY"}, "jobs": {"PRIMARY"}}),
    "waiting jobs are taken": (_take, {"waiting_jobs": {"PRIMARY"}, "jobs": {"PRIMARY"}}),
    "jobs are assigned": (_assign, {"waiting_jobs": {"PRIMARY"}, "jobs": {"PRIMARY"}}),
    "assignments go back": (_return, {"jobs": {"PRIMARY"}, "job_events": {None}}),
    "slots are locked": (lambda tx: matching.lock_slots(tx, range(1, 60), "offered"), {"slots": {"PRIMARY"}}),
    "parked slots": (lambda tx: matching.parked_slots(tx, [1]), {"slots": {"ix_slots_state"}}),
    "a page of parked slots": (
        lambda tx: matching.parked_slots(tx, [1], after=5, most=16),
        {"slots": {"ix_slots_state", "PRIMARY"}},
    ),
    "how much waits": (
        lambda tx: matching.count_waiting(tx, range(1, 100), 1_000),
        {"waiting_jobs": {"PRIMARY"}},
    ),
    "where pilots are": (
        lambda tx: matching.places(tx, matching.lock_slots(tx, range(1, 60), "offered"), Kinds(), ALIVE),
        {"slots": {"PRIMARY"}, "pilots": {"PRIMARY"}},
    ),
    "what pilots' jobs take": (lambda tx: matching.occupied(tx, range(1, 60)), {"jobs": {"ix_jobs_pilot_id_state"}}),
    "slots are served": (lambda tx: matching.set_slots(tx, range(1, 60), "served"), {"slots": {"PRIMARY"}}),
    "the poll for served slots": (offers.served, {"slots": {"ix_slots_state"}}),
    "offers that nobody dealt with": (
        lambda tx: reconcile.overdue_slots(tx, 100, 30),
        {"slots": {"ix_slots_wake_at", "PRIMARY"}},
    ),
    "ends are booked": (
        lambda tx: releases.book(tx, HALF_LIFE, most=200),
        {"releases": {"PRIMARY"}, "limits": {"uq_limits_kind_subject_id", "PRIMARY"}, "usage": {"PRIMARY"}},
    ),
    "limits are moved": (_limits, {"limits": {"uq_limits_kind_subject_id", "PRIMARY"}}),
    "usage is booked": (_usage, {"usage": {"PRIMARY"}}),
    "overdue jobs": (lambda tx: jobs.overdue(tx, [JobState.MATCHED], 50), {"jobs": {"ix_jobs_wake_at"}}),
    "received jobs are claimed": (
        lambda tx: jobs.claim_received(tx, 3, 50, tx.now),
        {"jobs": {"ix_jobs_step_id_state_wake_at", "PRIMARY"}},
    ),
    "jobs of a pilot": (lambda tx: jobs.of_pilot(tx, 5), {"jobs": {"ix_jobs_pilot_id_state"}}),
}


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_uses_its_index(world: World, name: str) -> None:
    work, keys = HOT[name]
    steps = [step for step in world.plans(work) if step.table in LARGE]
    assert {step.table for step in steps} == set(keys)
    for step in steps:
        assert step.key in keys[step.table], step
        assert step.kind not in {"ALL", "index"} or step.statement.startswith("INSERT"), step
        assert "filesort" not in step.extra or name in SORTS_FEW, step


def test_limits_are_counted_anew_over_the_pilots_that_live(world: World) -> None:
    steps = [step for step in world.plans(recount.recount) if step.table in {"pilots", "jobs"}]
    assert {(step.table, step.key) for step in steps} == {
        ("pilots", "ix_pilots_state_last_seen"),
        ("jobs", "ix_jobs_pilot_id_state"),
    }


def _count(tx: Transaction) -> None:
    """One tick notes what is there, the next one counts some of it."""
    event_counts.count(tx, settled=0.0)
    event_counts.count(tx, settled=0.0, most=500)
    pilot_counts.count_ended(tx)
    pilot_counts.count_ended(tx, settled=0.0)


def test_a_tick_counts_what_happened_and_reads_no_job(world: World) -> None:
    steps = [step for step in world.plans(_count) if step.table in {*LARGE, "attempts", "written"}]
    assert {(step.table, step.key) for step in steps} == {
        ("job_events", "PRIMARY"),
        ("attempts", "PRIMARY"),
        ("written", "ix_job_events_job_id"),
        ("pilots", "PRIMARY"),
        ("pilots", "ix_pilots_ended_at"),
    }
    assert {step.kind for step in steps} <= {"range", "eq_ref", "ref"}


def test_a_tick_measures_live_pilots_alone(world: World) -> None:
    measured = partial(measures.measure, queues=("data",), heartbeat_timeout=120.0)
    steps = [step for step in world.plans(measured) if step.table in LARGE]
    assert {step.table for step in steps} == {"pilots"}
    assert {step.key for step in steps} <= {"ix_pilots_site_queue_id_state", "ix_pilots_state_last_seen"}
    assert {step.kind for step in steps} == {"range"}


def test_pilots_are_shown_by_their_keys(world: World) -> None:
    steps = [step for step in world.plans(lambda tx: _show_pilots(tx, world.vo_id)) if step.table in LARGE]
    keys = {("pilots", "PRIMARY"), ("pilots", "fk_pilots_vo_id"), ("jobs", "ix_jobs_pilot_id_state")}
    assert {(step.table, step.key) for step in steps} == keys  # ids follow one another in the VO's index
    assert not [step for step in steps if step.kind in {"ALL", "index"}]
    page = next(step for step in steps if "LIMIT" in step.statement)
    assert "filesort" not in page.extra


@pytest.mark.parametrize("command", [pilot_commands.drain, pilot_commands.end_now])
@pytest.mark.parametrize(
    ("chosen", "keys"),
    [
        ({"site": "LOCAL"}, {"ix_pilots_site_queue_id_state", "ix_pilots_state_last_seen"}),
        ({"queue": "local", "states": (PilotState.RUNNING,)}, {"ix_pilots_site_queue_id_state"}),
        ({"states": (PilotState.HELD, PilotState.RUNNING)}, {"ix_pilots_state_last_seen"}),
        ({"ids": tuple(range(40, 400))}, {"PRIMARY", "ix_pilots_state_last_seen"}),
    ],
    ids=["site", "queue", "states", "ids"],
)
def test_pilots_that_a_command_means_are_found_among_the_live_ones(
    world: World, command: Callable[..., object], chosen: dict[str, Any], keys: set[str]
) -> None:
    meant = PilotFilter(world.vo_id, **chosen)
    sent = world.sent(lambda: command(world.database, meant, "why", dry_run=True))
    for step in world.explained(sent):
        if step.table == "pilots":
            assert step.key in keys, step
            assert step.kind not in {"ALL", "index"}, step


def test_an_order_of_pilots_counts_live_ones_alone(world: World) -> None:
    order = pilot_requests.Order(world.vo_id, "default", 1, "LOCAL", "local", 1, key="k")

    def refused(tx: Transaction) -> None:
        with pytest.raises(Conflict, match="max_pilots of queue LOCAL/local is 1 and 200 pilots are there"):
            pilot_requests.request(tx, order)

    steps = [step for step in world.plans(refused) if step.table == "pilots"]
    assert {step.key for step in steps} <= {
        "uq_pilots_tag", "ix_pilots_site_queue_id_state", "ix_pilots_site_queue_id_requested_at"
    }  # fmt: skip
    assert len({step.key for step in steps}) > 1


@pytest.mark.parametrize("command", ["kill", "retry"])
def test_a_command_by_filter_reads_the_jobs_that_it_means(world: World, command: str) -> None:
    chosen = JobFilter(campaign_id=1)
    if command == "kill":
        sent = world.sent(lambda: job_commands.kill(world.database, world.vo_id, chosen))
    else:
        sent = world.sent(lambda: job_commands.retry(world.database, world.vo_id, chosen, window=4, wake_after=30.0))
    steps = world.explained(sent)
    large = [step for step in steps if step.table in LARGE]
    assert large
    assert not [step for step in large if step.kind == "ALL"]
