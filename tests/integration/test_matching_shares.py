"""Shares against real databases: what is charged at the match, settled at the end, and who is next meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest
from sqlalchemy import func, select, update

from consumers.matching import SPEC as MATCHING
from consumers.optimisation import SPEC as OPTIMISATION
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import access, jobs, policy_apply, releases
from pipeline.store import usage as usage_store
from pipeline.store.access import Caller
from pipeline.store.database import Database, Transaction
from pipeline.store.jobs import Change
from pipeline.store.match_rows import Account
from pipeline.store.tables import jobs as jobs_table
from pipeline.store.tables import releases as releases_table
from pipeline.store.tables import usage
from pipeline.store.usage import Booking
from schemas.api import Role
from schemas.messages import JobsReceived, Message, SlotsOffered
from schemas.outcomes import Done
from schemas.policy import Policy
from schemas.states import JobState
from tests.building import offering, site
from tests.submitting import User, array, submit, user

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HALF_LIFE = 1_000.0
ENDS = (JobState.COMPLETING, JobState.FAILED, JobState.KILLED, JobState.RECEIVED)


def _context(database: Database) -> Context:
    return Context(Settings(), database, "test")


def _member(database: Database, subject: str, group: str) -> User:
    vo_id = user(database).vo_id
    return User(vo_id, database.transact(lambda tx: access.ensure_identity(tx, vo_id, "local", subject, group)))


def _wait(database: Database, owner: User, size: int, wall_time: int) -> None:
    step = {"name": "s", "requirements": {"wall_time": wall_time}, **array(size)}
    pending = list(submit(database, step, owner=owner).messages)
    while pending:
        done = [outcome for outcome in OPTIMISATION.execute(_context(database), pending) if isinstance(outcome, Done)]
        pending = [m for outcome in done for m in outcome.follow_ups if isinstance(m.body, JobsReceived)]


def _offer(database: Database, *pilot_ids: int) -> None:
    MATCHING.execute(_context(database), [Message.about(SlotsOffered(pilot_ids=pilot_ids), now=NOW)])


def _accounts(database: Database) -> dict[int, Account]:
    vo_id = user(database).vo_id
    found = database.read(lambda tx: usage_store.accounts(tx, [vo_id], 7 * 86_400.0))
    return {account.owner_id: account for account in found}


def test_two_groups_of_shares_three_and_one_get_their_parts_of_the_core_seconds(database: Database) -> None:
    at = site(database)
    prod, other = _member(database, "pat", "prod"), _member(database, "uma", "users")
    policy = Policy.model_validate({"shares": {"groups": {"prod": {"share": 3}}}})
    caller = Caller(vo_id=prod.vo_id, vo="default", role=Role.OPERATOR, subject="root")
    database.transact(lambda tx: policy_apply.apply(tx, caller, policy))
    _wait(database, prod, 300, 700)
    _wait(database, other, 100, 1_900)
    for _ in range(12):
        _offer(database, *(offering(database, at, memory=99_999, disk=99_999) for _ in range(5)))
    accounts = _accounts(database)
    pat, uma = accounts[prod.identity_id], accounts[other.identity_id]
    assert pat.charged / 700 + uma.charged / 1_900 == 240
    assert abs(pat.charged / 3 - uma.charged) <= 1_900
    charges = database.read(lambda tx: tx.scalar(select(func.sum(jobs_table.c.charge))))
    assert int(charges) == pat.charged + uma.charged
    assert pat.settled == uma.settled == 0


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_started", [True, False])
def test_an_attempt_is_settled_however_it_ends(database: Database, end: JobState, is_started: bool) -> None:
    at = site(database, running=5)
    owner = _member(database, "pat", "prod")
    _wait(database, owner, 1, 600)
    _offer(database, offering(database, at))
    if is_started:
        database.transact(partial(_move, to=JobState.RUNNING))
    elif end is JobState.COMPLETING:
        end = JobState.WAITING
    database.transact(
        lambda tx: tx.run(update(jobs_table).values(matched_at=tx.after(-200), changed_at=tx.after(-100)))
    )
    database.transact(partial(_move, to=end))
    assert releases.book_all(database, 7 * 86_400.0) == 1
    assert releases.book_all(database, 7 * 86_400.0) == 0
    account = _accounts(database)[owner.identity_id]
    assert (account.charged, account.settled) == (600, 600)
    assert account.used == pytest.approx(200 if is_started else 0, abs=20)
    assert account.usage == pytest.approx(account.used, abs=5)


def _move(tx: Transaction, to: JobState) -> None:
    query = jobs.columns().where(jobs_table.c.state.in_(["matched", "running"]))
    jobs.apply(tx, [Change(job, to) for job in jobs.lock_where(tx, query)])


def test_usage_fades_by_half_in_a_half_life_whenever_it_is_said_anew(database: Database) -> None:
    key = (1, 2, 3)
    database.transact(lambda tx: usage_store.book(tx, {key: [Booking(1_000, tx.now, charged=1_000)]}, HALF_LIFE))
    database.transact(lambda tx: tx.run(update(usage).values(landmark=tx.after(-HALF_LIFE))))
    database.transact(lambda tx: usage_store.rebase(tx, HALF_LIFE))
    (account,) = database.read(lambda tx: usage_store.accounts(tx, [1], HALF_LIFE))
    assert account.usage == pytest.approx(500, rel=0.05)
    late = {key: [Booking(-1_000, database.now(), settled=1_000)]}
    database.transact(lambda tx: usage_store.book(tx, late, HALF_LIFE))
    (account,) = database.read(lambda tx: usage_store.accounts(tx, [1], HALF_LIFE))
    assert account.usage == 0.0


def test_ends_are_booked_from_where_one_is_told_on(database: Database) -> None:
    rows = [{"job_id": number, "is_started": False, "ended_at": NOW} for number in range(1, 6)]
    database.transact(lambda tx: tx.add_all(releases_table, rows))
    booked = database.transact(lambda tx: releases.book(tx, HALF_LIFE, most=3))
    assert booked.count == 3
    again = database.transact(lambda tx: releases.book(tx, HALF_LIFE, after=booked.last_id))
    assert again.count == 2
    assert database.read(lambda tx: tx.rows(select(releases_table))) == []
