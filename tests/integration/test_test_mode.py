"""Sites in test mode: jobs of one type alone are placed and matched there, until the others are allowed again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import select

from consumers.optimisation import SPEC
from executors.matching.shell import execute as match
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import bans
from pipeline.store.bans import Scope, Terms
from pipeline.store.database import Database
from pipeline.store.tables import jobs
from schemas.api import Role
from schemas.messages import JobsReceived, Message, SlotsOffered
from schemas.states import JobState
from tests import building
from tests.api_server import RunningApi, running_api
from tests.submitting import submit, user


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running


def _optimise(database: Database, *job_types: str) -> dict[str, int]:
    """Submit one job of each type and optimise them; the ids."""
    ids = {}
    for job_type in job_types:
        submitted = submit(database, {"name": "a", "job_type": job_type})
        (message,) = submitted.messages
        (ids[job_type],) = message.body.ids()
        SPEC.execute(Context(Settings(), database, "test"), [message])
    return ids


def _states(database: Database) -> dict[int, str]:
    return {row.id: row.state for row in database.read(lambda tx: tx.rows(select(jobs.c.id, jobs.c.state)))}


def test_test_mode_is_told_apart_from_bans(database: Database) -> None:
    tested, banned, both = (building.site(database, name) for name in ("TESTED", "BANNED", "BOTH"))
    vo = user(database).vo_id
    building.ban(database, tested, vo="default", only_job_type="test")
    building.ban(database, banned, queue=True)
    building.ban(database, both, vo="default", only_job_type="test")
    building.ban(database, both, vo="default")
    assert database.read(bans.banned_queues) == {(banned.queue_id, None), (both.queue_id, vo)}
    assert database.read(bans.tested_queues) == {(tested.queue_id, vo): "test", (both.queue_id, vo): "test"}


def test_the_latest_of_several_test_modes_counts_and_none_that_was_lifted(database: Database) -> None:
    at = building.site(database)
    vo = user(database).vo_id
    for job_type in ("first", "second"):
        terms = Terms("ops", "new storage", only_job_type=job_type)
        database.transact(partial(bans.ban, scope=Scope(vo, at.name), terms=terms))
    building.ban(database, at, vo="default", only_job_type="third", lifted_at=database.now())
    assert database.read(bans.tested_queues) == {(at.queue_id, vo): "second"}


def test_jobs_of_other_types_are_held_and_those_of_this_one_wait(database: Database) -> None:
    building.ban(database, building.site(database), vo="default", only_job_type="test")
    ids = _optimise(database, "test", "user")
    assert _states(database) == {ids["test"]: JobState.WAITING, ids["user"]: JobState.HELD}


def test_a_ban_wins_over_test_mode(database: Database) -> None:
    at = building.site(database)
    building.ban(database, at, vo="default", only_job_type="test")
    building.ban(database, at, vo="default")
    ids = _optimise(database, "test")
    assert _states(database) == {ids["test"]: JobState.HELD}


def test_of_waiting_jobs_only_the_test_is_matched(database: Database) -> None:
    at = building.site(database)
    ids = _optimise(database, "user", "test", "merge")
    building.ban(database, at, vo="default", only_job_type="test")
    pilot_id = building.offering(database, at)
    message = Message.about(SlotsOffered(pilot_ids=(pilot_id,)), now=database.now())
    match(Context(Settings(), database, "test"), [message])
    assert _states(database) == {
        ids["user"]: JobState.WAITING,
        ids["test"]: JobState.MATCHED,
        ids["merge"]: JobState.WAITING,
    }


def test_the_test_mode_for_all_wins_over_that_of_a_vo(database: Database) -> None:
    at = building.site(database)
    ids = _optimise(database, "theirs", "ours")
    building.ban(database, at, only_job_type="theirs")
    building.ban(database, at, vo="default", only_job_type="ours")
    pilot_id = building.offering(database, at)
    message = Message.about(SlotsOffered(pilot_ids=(pilot_id,)), now=database.now())
    match(Context(Settings(), database, "test"), [message])
    assert _states(database) == {ids["theirs"]: JobState.MATCHED, ids["ours"]: JobState.WAITING}


def test_held_jobs_are_received_again_when_test_mode_comes_and_when_it_ends(api: RunningApi) -> None:
    database = api.database
    at = building.site(database)
    with api.http(api.token(Role.OPERATOR, "default")) as http:
        first = http.post(f"/v1/sites/{at.name}/test", json={"why": "new storage"})
        assert first.status_code == 200
        assert first.json()["only_job_type"] == "test"
        ids = _optimise(database, "probe", "user")
        assert set(_states(database).values()) == {JobState.HELD}
        http.post(f"/v1/sites/{at.name}/test", json={"why": "new storage", "job_type": "probe"})
        assert set(_states(database).values()) == {JobState.RECEIVED}
        again = Message.about(JobsReceived(job_ids=tuple(ids.values())), now=database.now())
        SPEC.execute(Context(Settings(), database, "test"), [again])
        assert _states(database) == {ids["probe"]: JobState.WAITING, ids["user"]: JobState.HELD}
        allowed = http.post(f"/v1/sites/{at.name}/allow", json={}).json()
        assert [one["only_job_type"] for one in allowed["lifted"]] == ["test", "probe"]
        assert allowed["woken"] == 1


@pytest.mark.parametrize("body", [{}, {"why": "x", "job_type": ""}, {"why": "x", "until": "2020-01-01T00:00:00Z"}])
def test_a_test_mode_without_reason_type_or_future_is_refused(api: RunningApi, body: dict[str, str]) -> None:
    at = building.site(api.database)
    with api.http(api.token(Role.OPERATOR)) as http:
        assert http.post(f"/v1/sites/{at.name}/test", json=body).status_code in {400, 422}
        assert http.get("/v1/sites").json()["bans"] == []
    with api.http(api.token(Role.USER)) as http:
        assert http.post(f"/v1/sites/{at.name}/test", json={"why": "x"}).status_code == 403
