"""Numbers that no row can have are refused by the API as the caller's, never a defect of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from pipeline.api.app import create_app
from pipeline.api.policy import declared_policies
from pipeline.api.problems import MEDIA_TYPE
from pipeline.store.access import digest
from schemas.api import Role
from tests import building
from tests.api_server import RunningApi, running_api

TOO_LARGE = 2**63


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api")) as running:
        yield running


def test_an_id_that_no_row_can_have_is_refused_in_every_path(api: RunningApi) -> None:
    routes = [route for route in declared_policies(create_app(api.services)) if re.search(r"_id\}", route.path)]
    assert len(routes) > 10
    with api.http(api.token(Role.OPERATOR)) as http:
        for route in routes:
            if route.path.startswith("/v1/pilots/self/"):
                continue
            path = re.sub(r"\{[^}]*\}", str(TOO_LARGE), route.path)
            reply = http.request(route.method, path, json={"step": "s"} if route.method == "POST" else None)
            assert reply.status_code in {404, 422}, f"{route.method} {path}: {reply.text}"
            assert reply.headers["content-type"] == MEDIA_TYPE


@pytest.mark.parametrize(
    "path",
    ["jobs?id={}", "jobs?campaign={}", "jobs?after={}", "campaigns?after={}", "files?after={}", "pilots?after={}"],
)
def test_an_id_that_no_row_can_have_is_refused_in_every_query(api: RunningApi, path: str) -> None:
    with api.http(api.token(Role.OPERATOR)) as http:
        assert http.get(f"/v1/{path.format(TOO_LARGE)}").status_code == 422
        assert http.get(f"/v1/{path.format(TOO_LARGE - 1)}").status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("jobs/kill", {"ids": [TOO_LARGE]}),
        ("jobs/retry", {"campaign_id": TOO_LARGE}),
        ("tokens", {"subject": "ada", "expires_in": 1e300}),
        ("tokens", {"subject": "ada", "expires_in": 1e11}),
    ],
)
def test_what_no_row_can_hold_is_refused_in_every_body(api: RunningApi, path: str, body: dict[str, Any]) -> None:
    with api.http(api.token(Role.OPERATOR)) as http:
        reply = http.post(f"/v1/{path}", json=body)
    assert reply.status_code in {400, 422}, reply.text
    assert reply.headers["content-type"] == MEDIA_TYPE


@pytest.mark.parametrize("word", ["cores", "memory", "disk", "wall_time", "max_pilots", "max_pending_pilots"])
def test_a_sites_file_declares_nothing_that_no_row_can_hold(api: RunningApi, word: str) -> None:
    queue, limit = {"name": "q", word: TOO_LARGE}, {"max_running_jobs": TOO_LARGE}
    for site in ({"queues": [queue]}, {"queues": [{"name": "q"}], **limit}):
        file = {
            "storages": [{"name": "disk", "url": "file:///x"}],
            "sites": [{"name": "S", "storages": ["disk"], **site}],
        }
        with api.http(api.token(Role.OPERATOR)) as http:
            assert http.post("/v1/sites/apply", json=file).status_code == 422


def test_a_ban_into_the_year_10000_is_refused(api: RunningApi) -> None:
    building.site(api.database, "OPEN")
    with api.http(api.token(Role.OPERATOR)) as http:
        reply = http.post("/v1/sites/OPEN/ban", json={"why": "x", "until": "9999-12-31T23:59:59-12:00"})
    assert reply.status_code == 400, reply.text
    assert "too far ahead" in reply.json()["detail"]


def test_what_is_not_found_is_said_with_the_command_that_lists_what_there_is(api: RunningApi) -> None:
    with api.http(api.token(Role.USER)) as http:
        job, campaign = http.get("/v1/jobs/999999999"), http.get("/v1/campaigns/999999999")
    assert "`penstock jobs list`" in job.json()["detail"]
    assert "`penstock campaigns list`" in campaign.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("heartbeat", {"jobs": [{"job_id": TOO_LARGE, "attempt": 1, "phase": "running"}]}),
        ("start", {"jobs": [{"job_id": 1, "attempt": TOO_LARGE}]}),
        ("report", {"reports": [{"job_id": TOO_LARGE, "attempt": 1, "outcome": "killed"}]}),
        ("offer", {"cores": 1, "memory": 1, "disk": 1, "time_left": 1e300}),
        ("offer", {"cores": TOO_LARGE, "memory": 1, "disk": 1, "time_left": 60}),
    ],
)
def test_a_pilots_words_are_bounded_too(api: RunningApi, path: str, body: dict[str, Any]) -> None:
    name = uuid4().hex
    building.pilot(api.database, building.site(api.database, name), token_digest=digest(name))
    with api.http(name) as http:
        assert http.post(f"/v1/pilots/self/{path}", json=body).status_code == 422
