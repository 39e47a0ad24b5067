"""Tokens and VOs in the store, on SQLite and on MariaDB."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select, update

from pipeline.errors import BadInput, NotFound, Unauthorized
from pipeline.store import access
from pipeline.store.access import NewToken
from pipeline.store.database import Database
from pipeline.store.tables import tokens
from schemas.api import Role

ADA = NewToken(role=Role.USER, subject="ada")


def make(database: Database, vo: str = "default", wanted: NewToken = ADA) -> str:
    return database.transact(lambda tx: access.create_token(tx, access.ensure_vo(tx, vo), wanted)).token


def caller_of(database: Database, token: str) -> access.Caller:
    return database.transact(lambda tx: access.authenticate(tx, token))


def test_a_token_tells_who_calls(database: Database) -> None:
    token = make(database, "higgs", replace(ADA, group="analysis", role=Role.MONITOR))
    caller = caller_of(database, token)
    assert (caller.vo, caller.subject, caller.group, caller.role) == ("higgs", "ada", "analysis", Role.MONITOR)
    assert token.startswith("pst_")
    assert len(token) >= 4 + 43


def test_only_the_digest_of_a_token_is_stored(database: Database) -> None:
    token = make(database)
    row = database.transact(lambda tx: tx.first(select(tokens)))
    assert row is not None
    assert row.digest == access.digest(token)
    assert token not in str(tuple(row))


def test_an_unknown_token_is_refused(database: Database) -> None:
    make(database)
    with pytest.raises(Unauthorized, match="not known"):
        caller_of(database, "pst_wrong")


def test_a_revoked_token_is_refused_and_stays_listed(database: Database) -> None:
    token = make(database)
    vo_id = database.transact(lambda tx: access.ensure_vo(tx, "default"))
    (view,) = database.transact(lambda tx: access.list_tokens(tx, vo_id, after=0, most=10))
    revoked = database.transact(lambda tx: access.revoke_token(tx, vo_id, view.id))
    assert revoked.revoked_at is not None
    assert database.transact(lambda tx: access.revoke_token(tx, vo_id, view.id)) == revoked
    with pytest.raises(Unauthorized, match="was revoked"):
        caller_of(database, token)


def test_a_token_expires_by_the_databases_clock(database: Database) -> None:
    token = make(database, wanted=replace(ADA, expires_in=60.0))
    caller_of(database, token)
    database.transact(lambda tx: tx.run(update(tokens).values(expires_at=tx.after(-1))))
    with pytest.raises(Unauthorized, match="expired at"):
        caller_of(database, token)


def test_the_same_subject_is_another_person_in_another_vo(database: Database) -> None:
    here, there = (make(database, vo=vo) for vo in ("one", "two"))
    one, two = (caller_of(database, token) for token in (here, there))
    assert one.identity_id != two.identity_id
    assert make(database, vo="one") != here
    assert database.transact(lambda tx: access.ensure_identity(tx, one.vo_id, "penstock", "ada", "default")) == (
        one.identity_id
    )


def test_another_vos_token_is_not_to_be_revoked(database: Database) -> None:
    make(database, vo="one")
    other = database.transact(lambda tx: access.ensure_vo(tx, "two"))
    with pytest.raises(NotFound):
        database.transact(lambda tx: access.revoke_token(tx, other, 1))


def test_bootstrap_makes_an_operator_and_may_run_again(database: Database) -> None:
    first = database.transact(access.bootstrap)
    second = database.transact(access.bootstrap)
    one, two = (caller_of(database, token) for token in (first, second))
    assert first != second
    assert one == two
    assert (one.vo, one.role) == ("default", Role.OPERATOR)


@pytest.mark.parametrize("name", ["", "..", "../other", "a/b", "a" * 64])
def test_a_vos_name_is_fit_for_paths(database: Database, name: str) -> None:
    with pytest.raises(BadInput, match="can't be a VO's name"):
        database.transact(lambda tx: access.ensure_vo(tx, name))
