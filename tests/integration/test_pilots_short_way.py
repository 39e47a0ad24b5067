"""Calls of pilots over HTTP, as they go around the framework or through it: nobody can tell by the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from pipeline.store import access
from pipeline.store.pilots import TOKEN_PREFIX
from schemas.states import PilotState
from tests import building
from tests.api_server import RunningApi, running_api
from tests.pilot_rows import match
from tests.submitting import all_jobs, array, submit

PILOTS = 8
HEARTBEAT = "/v1/pilots/self/heartbeat"


def token(place: int) -> str:
    """A running pilot's token."""
    return f"{TOKEN_PREFIX}secret-{place}"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """An API with pilots that have two matched jobs each."""
    with running_api(tmp_path_factory.mktemp("api")) as running:
        site = building.site(running.database)
        submitted = submit(running.database, {"name": "s", **array(2 * PILOTS)})
        found = all_jobs(running.database, submitted.campaign_id)
        for place in range(PILOTS):
            pilot_id = building.pilot(running.database, site, token_digest=access.digest(token(place)))
            match(running.database, found[2 * place : 2 * place + 2], site, pilot_id)
        building.pilot(running.database, site, token_digest=access.digest(token(99)), state=PilotState.DONE)
        yield running


def said(api: RunningApi, place: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to one pilot."""
    with api.http(token(place)) as http:
        reply = http.post(f"/v1/pilots/self/{path}", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_pilots_that_speak_at_once_get_their_own_answers(api: RunningApi) -> None:
    offer = {"cores": 4, "memory": 8192, "disk": 1000, "time_left": 60.0}

    def live(place: int) -> list[int]:
        given = said(api, place, "offer", offer)["assignments"]
        refs = [{"job_id": job["job_id"], "attempt": job["attempt"]} for job in given]
        assert said(api, place, "start", {"jobs": refs}) == {"accepted": refs, "refused": []}
        held = [{**ref, "phase": "running"} for ref in refs]
        assert said(api, place, "heartbeat", {"jobs": held})["stop"] == []
        ends = [{**ref, "outcome": "succeeded"} for ref in refs]
        assert said(api, place, "report", {"reports": ends}) == {"accepted": refs, "refused": []}
        return [ref["job_id"] for ref in refs]

    with ThreadPoolExecutor(PILOTS) as threads:
        given = list(threads.map(live, range(PILOTS)))
    assert [len(mine) for mine in given] == [2] * PILOTS
    assert len({job_id for mine in given for job_id in mine}) == 2 * PILOTS


def raw(api: RunningApi, content: bytes, bearer: str, kind: str = "application/json") -> httpx.Response:
    """The reply to a heartbeat of these bytes."""
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": kind}
    with api.http() as http:
        return http.post(HEARTBEAT, content=content, headers=headers)


@pytest.mark.parametrize(
    ("content", "bearer", "status", "detail"),
    [
        (b'{"jobs": [{"job_id": 0}]}', token(0), 422, "jobs.0.job_id: "),
        (b'{"jobs": ', token(0), 422, "JSON decode error"),
        (b'{"jobs": [], "more": 1}', token(0), 422, "more: "),
        (b"{}", token(98), 401, "the token is not known"),
        (b"{}", token(99), 401, "it must end itself"),
        (b"{}", "pst_nobody", 401, "the token is not known"),
    ],
    ids=["bad field", "no JSON", "unknown field", "unknown pilot", "ended pilot", "no pilot"],
)
def test_what_is_wrong_with_a_call_is_said_as_ever(
    api: RunningApi, content: bytes, bearer: str, status: int, detail: str
) -> None:
    reply = raw(api, content, bearer)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert detail in reply.json()["detail"]


def test_a_call_longer_than_the_short_way_takes_is_answered_too(api: RunningApi) -> None:
    held = [{"job_id": 10**6 + n, "attempt": 1, "phase": "running", "tail": "x" * 16_000} for n in range(80)]
    reply = raw(api, json.dumps({"jobs": held}).encode(), token(0))
    assert reply.status_code == 200
    assert len(reply.json()["stop"]) == len(held)


def test_a_call_of_another_content_type_is_answered_as_ever(api: RunningApi) -> None:
    assert raw(api, b"{}", token(0), "application/json; charset=utf-8").status_code == 200
    assert raw(api, b"{}", token(0), "text/plain").status_code == 422


def test_calls_are_counted_by_their_route(api: RunningApi) -> None:
    before = counted(api)
    said(api, 0, "heartbeat", {})
    assert counted(api) == before + 1


def counted(api: RunningApi) -> float:
    """Heartbeats that were answered, as the metrics have it."""
    with api.http() as http:
        lines = http.get("/metrics").text.splitlines()
    mine = [line for line in lines if line.startswith("penstock_") and f'route="{HEARTBEAT}",status="200"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in mine if "_created" not in line)
