"""Pilots that operators drain and kill: who is told what."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from pipeline.errors import BadInput, NotFound
from pipeline.store.access import ensure_vo
from pipeline.store.database import Database, Transaction
from pipeline.store.pilot_commands import PilotFilter, drain, end_now
from pipeline.store.tables import pilots
from schemas.api import Role
from schemas.pilot_views import PilotKill, PilotSelection
from schemas.states import PilotState
from tests import building
from tests.api_server import RunningApi
from tests.vo_pilots import PENDING, pilot, place, rows


def test_draining_lets_active_pilots_finish_and_removes_those_that_have_not_begun(api: RunningApi) -> None:
    at = place(api)
    ids = {state.value: pilot(api, at, state.value) for state in PilotState}
    elsewhere = pilot(api, place(api))
    with api.client(Role.OPERATOR, subject="op") as client:
        trial = client.drain_pilots(PilotSelection(site=at.name, why="cooling", dry_run=True))
        assert (trial.removed, trial.drained, trial.ended, trial.dry_run) == (4, 2, 0, True)
        assert not any(row.reason for row in rows(api.database, list(ids.values())).values())
        done = client.drain_pilots(PilotSelection(site=at.name, why="cooling"))
        again = client.drain_pilots(PilotSelection(site=at.name))
    assert (done.removed, done.drained, done.ended) == (4, 2, 0)
    assert (again.removed, again.drained) == (0, 0)
    found = rows(api.database, [*ids.values(), elsewhere])
    assert {state for state, one in ids.items() if found[one].remove_requested} == set(PENDING)
    assert {state for state, one in ids.items() if found[one].drain_requested} == {"running", "lost"}
    told = {row.reason for row in found.values() if row.remove_requested or row.drain_requested}
    assert told == {"drained by op: cooling"}


def test_killing_at_once_removes_active_pilots_too(api: RunningApi) -> None:
    at = place(api)
    ids = {state.value: pilot(api, at, state.value) for state in PilotState}
    with api.client(Role.OPERATOR) as client:
        gentle = client.kill_pilots(PilotKill(queue="local", site=at.name, dry_run=True))
        assert (gentle.removed, gentle.drained, gentle.ended) == (4, 2, 0)
        done = client.kill_pilots(PilotKill(site=at.name, states=(PilotState.RUNNING, PilotState.QUEUED), now=True))
        assert (done.removed, done.drained, done.ended) == (1, 0, 1)
        rest = client.kill_pilots(PilotKill(ids=tuple(ids.values()), now=True))
        assert (rest.removed, rest.drained, rest.ended) == (3, 0, 2)
    found = rows(api.database, list(ids.values()))
    assert {state for state, one in ids.items() if not found[one].remove_requested} == {"done", "failed", "removed"}


def test_a_selection_must_name_something_that_is_there(api: RunningApi) -> None:
    at = place(api)
    with api.client(Role.OPERATOR) as client:
        with pytest.raises(BadInput, match="name at least one condition"):
            client.drain_pilots(PilotSelection())
        with pytest.raises(BadInput, match="name at least one condition"):
            client.kill_pilots(PilotKill(now=True, dry_run=True))
        with pytest.raises(NotFound, match="there is no site 'NOWHERE'"):
            client.drain_pilots(PilotSelection(site="NOWHERE"))
        with pytest.raises(NotFound, match=f"the site {at.name} has no queue 'short'"):
            client.kill_pilots(PilotKill(site=at.name, queue="short"))


def test_ten_thousand_pilots_are_drained_and_killed_in_few_statements(database: Database) -> None:
    at = building.site(database)
    vo_id = database.transact(lambda tx: ensure_vo(tx, "default"))
    common = {"site_queue_id": at.queue_id, "site_id": at.id, "vo_id": vo_id, "cores": 1}

    def many(tx: Transaction) -> None:
        for start in range(0, 10_000, 1_000):
            part = range(start, start + 1_000)
            states = {number: "queued" if number % 2 else "running" for number in part}
            new = [{**common, "tag": f"t{n}", "state": states[n], "requested_at": tx.now} for n in part]
            tx.add_all(pilots, new)

    database.transact(many)
    sent: list[str] = []

    def note(*words: Any) -> None:
        sent.append(words[2])

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        told = drain(database, PilotFilter(vo_id, site=at.name), "why")
        assert (told.removed, told.drained, told.queue_ids) == (5_000, 5_000, {at.queue_id})
        ended = end_now(database, PilotFilter(vo_id, queue="local"), "why")
        assert (ended.removed, ended.ended) == (0, 5_000)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert len([statement for statement in sent if statement.startswith("UPDATE")]) == 15
    assert len(sent) < 80


def test_a_pilot_that_has_begun_meanwhile_is_drained_instead_of_removed(api: RunningApi) -> None:
    """What was read before is judged again when it is changed."""
    at = place(api)
    pilot_id = pilot(api, at, "queued")
    writes: list[str] = []

    def begin(_connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("UPDATE pilots SET remove_requested") and not writes:
            writes.append(statement)
            cursor.execute("UPDATE pilots SET state = 'running' WHERE id = ?", (pilot_id,))

    event.listen(api.database.engine, "before_cursor_execute", begin)
    try:
        with api.client(Role.OPERATOR) as client:
            done = client.drain_pilots(PilotSelection(site=at.name))
    finally:
        event.remove(api.database.engine, "before_cursor_execute", begin)
    assert (done.removed, done.drained) == (0, 1)
    row = rows(api.database, [pilot_id])[pilot_id]
    assert (row.remove_requested, row.drain_requested) == (False, True)
