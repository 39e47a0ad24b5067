"""Calls of many pilots in one transaction: the same answers as one by one, and no more statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from sqlalchemy import event, select, text, update

from pipeline.store import access, attempts, heartbeats, jobs, offers, pilots
from pipeline.store.database import Database, Transaction
from pipeline.store.jobs import JobRow
from pipeline.store.own_attempts import of_pilots
from pipeline.store.pilots import PilotRow
from pipeline.store.tables import attempts as attempts_table
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import metadata, slots
from pipeline.store.tables import pilots as pilots_table
from schemas.messages import OutputsReported
from schemas.pilots import AttemptRef, HeartbeatRequest, HeldJob, OfferRequest, Report
from schemas.states import JobState, PilotState
from tests import building
from tests.integration.test_few_statements import statements_of
from tests.pilot_rows import RULES, match, set_job
from tests.servers import MariaDbServer
from tests.submitting import all_jobs, array, submit

T = TypeVar("T")
Said = list[tuple[PilotRow, Any]]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Pilots with two matched jobs each."""

    database: Database
    campaign_id: int
    pilot_ids: tuple[int, ...]

    def refs(self, place: int) -> tuple[AttemptRef, ...]:
        """The attempts of one pilot's jobs, wherever they are now."""
        mine = all_jobs(self.database, self.campaign_id)[2 * place : 2 * place + 2]
        return tuple(AttemptRef(job_id=job.id, attempt=1) for job in mine)

    def jobs_of(self, place: int) -> list[JobRow]:
        """One pilot's jobs."""
        return all_jobs(self.database, self.campaign_id)[2 * place : 2 * place + 2]

    def states(self) -> list[str]:
        """Those of all jobs."""
        return [job.state.value for job in all_jobs(self.database, self.campaign_id)]

    def together(self, work: Callable[[Transaction, Said], T], says: Callable[[int], Any], *places: int) -> T:
        """`work` with what these pilots say, all by default; locked as the API locks them."""
        chosen = places or tuple(range(len(self.pilot_ids)))
        words = [says(place) for place in chosen]
        digests = [token(place) for place in chosen]

        def locked(tx: Transaction) -> T:
            found = pilots.lock_callers(tx, digests)
            return work(tx, [(found[digest], said) for digest, said in zip(digests, words, strict=True)])

        return self.database.transact(locked)

    def start(self, *places: int) -> attempts.Rulings:
        """They confirm their jobs."""
        return self.together(lambda tx, said: attempts.start_all(tx, said, RULES), self.refs, *places)

    def report(self, *places: int, outcome: str = "succeeded") -> attempts.Rulings:
        """They report the end of their jobs."""
        return self.together(
            lambda tx, said: attempts.report_all(tx, said, RULES), lambda place: self.ends(place, outcome), *places
        )

    def ends(self, place: int, outcome: str = "succeeded") -> list[Report]:
        """What one pilot reports."""
        return [Report.model_validate({**ref.model_dump(), "outcome": outcome}) for ref in self.refs(place)]


@contextmanager
def on_mariadb(server: MariaDbServer) -> Iterator[Database]:
    """A fresh database with the schema."""
    database = Database(server.new_database())
    metadata.create_all(database.engine)
    yield database
    database.close()
    server.drop_database(database.url)


def token(place: int) -> str:
    """What is stored of a pilot's token."""
    return access.digest(f"token {place}")


def fleet(database: Database, size: int = 3) -> Fleet:
    """So many pilots on one site."""
    site = building.site(database)
    pilot_ids = tuple(building.pilot(database, site, token_digest=token(place)) for place in range(size))
    submitted = submit(database, {"name": "s", **array(2 * size)})
    made = Fleet(database, submitted.campaign_id, pilot_ids)
    for place, pilot_id in enumerate(pilot_ids):
        match(database, made.jobs_of(place), site, pilot_id)
    return made


def test_each_pilot_is_answered_for_its_own_attempts(database: Database) -> None:
    of = fleet(database)
    others = of.refs(1)
    rulings = of.together(
        lambda tx, said: attempts.start_all(tx, said, RULES),
        lambda place: (*of.refs(place), *others) if place == 0 else of.refs(place),
        *(0, 2),
    )
    first, last = rulings.verdicts
    assert (first.accepted, last.accepted) == (of.refs(0), of.refs(2))
    assert [(refusal.job_id, refusal.attempt) for refusal in first.refused] == [(r.job_id, 1) for r in others]
    assert of.states() == ["running", "running", "matched", "matched", "running", "running"]


def test_reports_of_many_are_one_message_and_repeated_ones_change_nothing(database: Database) -> None:
    of = fleet(database)
    of.start()
    told = of.report(0, 1)
    (message,) = told.aftermath.messages
    assert isinstance(message.body, OutputsReported)
    assert message.body.ids() == tuple(ref.job_id for place in (0, 1) for ref in of.refs(place))
    again = of.report()
    assert [verdict.accepted for verdict in again.verdicts] == [of.refs(place) for place in range(3)]
    assert [len(message.body.ids()) for message in again.aftermath.messages] == [2]
    kept = database.read(lambda tx: tx.rows(select(attempts_table.c.job_id, attempts_table.c.pilot_id)))
    assert sorted(row.pilot_id for row in kept) == sorted(of.pilot_ids * 2)


def test_a_heartbeat_of_many_commands_and_loses_for_each_alone(database: Database) -> None:
    of = fleet(database)
    of.start()
    doomed = of.refs(0)[0].job_id
    database.transact(lambda tx: jobs.request_kill(tx, jobs.lock(tx, [doomed])))
    lost = update(pilots_table).where(pilots_table.c.id == of.pilot_ids[1])
    database.transact(lambda tx: tx.run(lost.values(state=PilotState.LOST)))
    for ref in of.refs(2):
        set_job(database, ref.job_id, absences=1)

    def beat(place: int) -> HeartbeatRequest:
        held = () if place == 2 else of.refs(place) if place == 0 else (*of.refs(1), *of.refs(0))
        return HeartbeatRequest(jobs=tuple(HeldJob(**ref.model_dump(), phase="running") for ref in held))

    replies, aftermath = of.together(lambda tx, said: heartbeats.heartbeat_all(tx, said, RULES), beat)
    stops = [[(stop.job_id, stop.why) for stop in reply.stop] for reply in replies]
    assert stops == [[(doomed, "kill")], [(ref.job_id, "superseded") for ref in of.refs(0)], []]
    assert of.states() == ["running"] * 4 + ["received"] * 2
    assert [message.body.ids() for message in aftermath.messages] == [tuple(ref.job_id for ref in of.refs(2))]
    row = database.read(lambda tx: tx.first(select(pilots_table).where(pilots_table.c.id == of.pilot_ids[1])))
    assert row is not None
    assert row.state == "running"


def test_offers_of_many_are_one_message_about_those_that_get_nothing_at_once(database: Database) -> None:
    of = fleet(database, 4)
    of.start(1)
    drained = update(pilots_table).where(pilots_table.c.id == of.pilot_ids[3])
    database.transact(lambda tx: tx.run(drained.values(drain_requested=True)))

    def offer(place: int) -> OfferRequest:
        known = of.refs(place) if place == 2 else ()
        return OfferRequest(cores=4, memory=8192, disk=1000, time_left=3600, jobs=known)

    answers, messages = of.together(lambda tx, said: offers.offer_all(tx, said, RULES), offer)
    assert [[job.id for job in each.assigned] for each in answers] == [[r.job_id for r in of.refs(0)], [], [], []]
    assert [each.drain for each in answers] == [False, False, False, True]
    assert [message.body.ids() for message in messages] == [of.pilot_ids[1:3]]
    rows = database.read(lambda tx: tx.rows(select(slots.c.pilot_id, slots.c.state).order_by(slots.c.pilot_id)))
    assert [tuple(row) for row in rows] == list(zip(of.pilot_ids[:3], ("parked", "offered", "offered"), strict=True))


def test_a_pilot_that_ended_or_is_unknown_is_not_among_the_callers(database: Database) -> None:
    of = fleet(database)
    ended = update(pilots_table).where(pilots_table.c.id == of.pilot_ids[1])
    database.transact(lambda tx: tx.run(ended.values(state=PilotState.DONE)))
    wanted = [*(token(place) for place in range(3)), token(9)]
    found = database.transact(lambda tx: pilots.lock_callers(tx, wanted))
    assert {digest: pilot.id for digest, pilot in found.items()} == {
        token(0): of.pilot_ids[0],
        token(2): of.pilot_ids[2],
    }


def test_a_pilot_that_another_transaction_holds_keeps_nobody_waiting(mariadb_server: MariaDbServer) -> None:
    with on_mariadb(mariadb_server) as database:
        of = fleet(database)

        def while_held(tx: Transaction) -> list[int]:
            pilots.lock(tx, of.pilot_ids[1])
            found = database.transact(lambda other: pilots.lock_callers(other, [token(place) for place in range(3)]))
            return sorted(pilot.id for pilot in found.values())

        assert database.transact(while_held) == [of.pilot_ids[0], of.pilot_ids[2]]


def test_the_jobs_of_a_hundred_pilots_are_found_by_their_index(mariadb_server: MariaDbServer) -> None:
    """Where most jobs are done: MariaDB would rather read, and lock, all of them."""
    with on_mariadb(mariadb_server) as database:
        submit(database, {"name": "s", **array(20_000)})
        done = update(jobs_table).values(state=JobState.DONE, pilot_id=jobs_table.c.id % 200)
        database.transact(lambda tx: tx.run(done))
        database.transact(lambda tx: tx.connection.execute(text("ANALYZE TABLE jobs")).all())
        plans: list[str] = []

        def explain(*words: Any) -> None:
            if "FROM jobs" in words[2] and not words[2].startswith("EXPLAIN"):
                cursor = words[0].connection.cursor()
                cursor.execute(f"EXPLAIN {words[2]}", words[3])
                plans.extend(row[5] for row in cursor.fetchall())

        event.listen(database.engine, "before_cursor_execute", explain)
        database.transact(lambda tx: of_pilots(tx, range(120)))
        assert plans == ["ix_jobs_pilot_id_state"]


ACTS: dict[str, tuple[JobState, Callable[[Fleet, int], Any], Callable[[Transaction, Said], Any]]] = {
    "start": (JobState.MATCHED, Fleet.refs, lambda tx, said: attempts.start_all(tx, said, RULES)),
    "report": (JobState.RUNNING, Fleet.ends, lambda tx, said: attempts.report_all(tx, said, RULES)),
    "offer": (
        JobState.RUNNING,
        lambda of, place: OfferRequest(cores=4, memory=8, disk=1, time_left=9, jobs=of.refs(place)),
        lambda tx, said: offers.offer_all(tx, said, RULES),
    ),
    "heartbeat": (
        JobState.RUNNING,
        lambda of, place: HeartbeatRequest(
            jobs=tuple(HeldJob(**ref.model_dump(), phase="running") for ref in of.refs(place))
        ),
        lambda tx, said: heartbeats.heartbeat_all(tx, said, RULES),
    ),
}


@pytest.mark.parametrize("act", ACTS)
def test_many_pilots_take_as_many_statements_as_one(database: Database, act: str) -> None:
    state, says, work = ACTS[act]
    of = fleet(database, 12)
    if state is JobState.RUNNING:
        of.start()

    def counted(*places: int) -> int:
        words = {token(place): says(of, place) for place in places}

        def locked(tx: Transaction) -> Any:
            found = pilots.lock_callers(tx, words)
            return work(tx, [(found[digest], said) for digest, said in words.items()])

        return statements_of(database, locked)

    assert counted(0) == counted(*range(1, 12)) <= 14
