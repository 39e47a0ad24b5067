"""The pilot protocol over HTTP, against the real server: what a token reaches, and how long an offer waits."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from pipeline.store import access, heartbeats, pilots
from pipeline.store.tables import controls, enrolments, job_specs, jobs, slots
from pipeline.store.tables import pilots as pilots_table
from schemas.api import Role
from schemas.states import JobState, PilotState
from tests import building
from tests.api_server import RunningApi, running_api
from tests.pilot_rows import Scene, match
from tests.submitting import all_jobs, array, move, submit, user
from tests.waiting import eventually

NODE = {"host": "node1", "cores": 4, "memory": 8192, "disk": 20_000}
OFFER = {"cores": 4, "memory": 8192, "disk": 20_000, "time_left": 3600.0}


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("api"), heartbeat_interval=1.0) as running:
        yield running


@pytest.fixture
def site(api: RunningApi) -> building.Site:
    return building.site(api.database, f"SITE-{api.vo}", running=10)


@dataclass(frozen=True, slots=True)
class EnrolledPilot:
    """A pilot that was let in, and a client with its token."""

    id: int
    http: httpx.Client

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = self.http.post(f"/v1/pilots/self/{path}", json=body)
        assert reply.status_code in {200, 204}, reply.text
        answer: dict[str, Any] = reply.json() if reply.content else {}
        return answer


def requested(api: RunningApi, site: building.Site, tag: str, *, uses: int = 1) -> str:
    """A pilot's row, as planned, and the secret that it is submitted with."""
    building.pilot(api.database, site, vo=api.vo, tag=tag, state=PilotState.SUBMITTED, started_at=None, last_seen=None)
    vo_id = api.vo_id(api.vo)
    return api.database.transact(lambda tx: pilots.new_secret(tx, site.queue_id, vo_id, uses=uses, valid_for=60.0))


def enrol(api: RunningApi, secret: str, tag: str, **words: Any) -> httpx.Response:
    body = {"protocol": 1, "secret": secret, "tag": tag, "node": NODE, **words}
    with api.http() as http:
        return http.post("/v1/pilots/enrol", json=body)


@pytest.fixture
def pilot(api: RunningApi, site: building.Site) -> Iterator[EnrolledPilot]:
    tag = f"tag-{api.vo}"
    reply = enrol(api, requested(api, site, tag), tag).json()
    with api.http(reply["token"]) as http:
        yield EnrolledPilot(reply["pilot_id"], http)


def matched(api: RunningApi, site: building.Site, pilot: EnrolledPilot, **step: Any) -> Scene:
    """One job of the VO, matched to the pilot."""
    submitted = submit(api.database, {"name": "s", **step}, owner=user(api.database, api.vo))
    found = all_jobs(api.database, submitted.campaign_id)
    match(api.database, found, site, pilot.id)
    return Scene(api.database, site, pilot.id, submitted.campaign_id)


def serve(api: RunningApi, pilot: EnrolledPilot) -> None:
    """As matching does after it has assigned jobs."""
    mine = update(slots).where(slots.c.pilot_id == pilot.id)
    api.database.transact(lambda tx: tx.run(mine.values(state="served", wake_at=None)))


def test_a_pilot_enrols_once_with_a_secret_of_its_queue_and_vo(api: RunningApi, site: building.Site) -> None:
    secret = requested(api, site, f"a-{api.vo}", uses=2)
    first = enrol(api, secret, f"a-{api.vo}")
    assert first.status_code == 200
    assert first.json()["token"].startswith("pil_")
    assert first.json()["lifetime"] == building.DAY - 300
    with api.http(first.json()["token"]) as http:
        assert http.post("/v1/pilots/self/heartbeat", json={"jobs": []}).status_code == 200
    again = enrol(api, secret, f"a-{api.vo}")
    assert (again.status_code, "twice" in again.json()["detail"]) == (409, True)
    assert enrol(api, "enr_wrong", f"a-{api.vo}").status_code == 401
    other = building.site(api.database, f"OTHER-{api.vo}")
    requested(api, other, f"b-{api.vo}")
    assert enrol(api, secret, f"b-{api.vo}").status_code == 401
    requested(api, site, f"c-{api.vo}")
    assert enrol(api, secret, f"c-{api.vo}").status_code == 200
    requested(api, site, f"d-{api.vo}")
    spent = enrol(api, secret, f"d-{api.vo}")
    assert (spent.status_code, "used up" in spent.json()["detail"]) == (401, True)


def test_a_pilot_whose_answer_was_lost_enrols_again_and_only_its_newest_token_counts(
    api: RunningApi, site: building.Site
) -> None:
    secret, tag = requested(api, site, f"l-{api.vo}"), f"l-{api.vo}"
    lost, answered = enrol(api, secret, tag), enrol(api, secret, tag)
    assert (lost.status_code, answered.status_code) == (200, 200)
    assert lost.json()["pilot_id"] == answered.json()["pilot_id"]
    assert building.DAY - 400 < answered.json()["lifetime"] < lost.json()["lifetime"]
    with api.http(lost.json()["token"]) as old, api.http(answered.json()["token"]) as new:
        assert old.post("/v1/pilots/self/offer", json=OFFER).status_code == 401
        assert new.post("/v1/pilots/self/offer", json=OFFER).status_code == 200
        assert enrol(api, secret, tag).status_code == 409
        assert new.post("/v1/pilots/self/heartbeat", json={"jobs": []}).status_code == 200


def test_repeated_enrolments_spend_nothing_of_the_secret(api: RunningApi, site: building.Site) -> None:
    tags = [f"{letter}-{api.vo}" for letter in "abc"]
    secret = requested(api, site, tags[0], uses=2)
    for tag in tags[1:]:
        requested(api, site, tag)
    answers = [enrol(api, secret, tag).status_code for tag in (tags[0], tags[0], tags[1], tags[1], tags[0], tags[2])]
    assert answers == [200, 200, 200, 200, 200, 401]


def test_a_secret_that_expired_lets_no_pilot_in_again(api: RunningApi, site: building.Site) -> None:
    secret, tag = requested(api, site, f"e-{api.vo}"), f"e-{api.vo}"
    assert enrol(api, secret, tag).status_code == 200
    mine = update(enrolments).where(enrolments.c.digest == access.digest(secret))
    api.database.transact(lambda tx: tx.run(mine.values(expires_at=tx.now)))
    assert enrol(api, secret, tag).status_code == 401


def test_another_protocol_is_refused_with_the_one_that_is_spoken(api: RunningApi, site: building.Site) -> None:
    reply = enrol(api, requested(api, site, f"p-{api.vo}"), f"p-{api.vo}", protocol=2)
    assert reply.status_code == 426
    assert "speaks pilot protocol 1" in reply.json()["detail"]


def test_a_pilot_that_is_not_wanted_any_more_is_not_let_in(api: RunningApi, site: building.Site) -> None:
    secret = requested(api, site, f"u-{api.vo}")
    mine = update(pilots_table).where(pilots_table.c.tag == f"u-{api.vo}")
    api.database.transact(lambda tx: tx.run(mine.values(remove_requested=True)))
    assert enrol(api, secret, f"u-{api.vo}").status_code == 409


def test_a_waiting_offer_returns_as_soon_as_a_job_is_assigned(
    api: RunningApi, site: building.Site, pilot: EnrolledPilot
) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pilot.post, "offer", {**OFFER, "wait": 30})
        eventually(
            lambda: api.database.transact(lambda tx: tx.first(select(slots).where(slots.c.pilot_id == pilot.id)))
        )
        at = matched(
            api, site, pilot, command=["echo", "{word}"], parameters=[{"word": "hi"}], environment={"W": "{word}"}
        )
        serve(api, pilot)
        (assignment,) = waiting.result(timeout=10)["assignments"]
    assert assignment["job_id"] == at.jobs()[0].id
    assert assignment["command"] == ["echo", "hi"]
    assert assignment["environment"] == {"W": "hi"}
    assert pilot.post("offer", OFFER)["assignments"] == [assignment]


def test_many_pilots_wait_side_by_side_and_only_the_served_one_is_told(
    api: RunningApi, site: building.Site, pilot: EnrolledPilot
) -> None:
    others = []
    for number in range(10):
        tag = f"w{number}-{api.vo}"
        others.append(enrol(api, requested(api, site, tag), tag).json()["token"])

    def ask(token: str) -> Any:
        with api.http(token) as http:
            return http.post("/v1/pilots/self/offer", json={**OFFER, "wait": 2}).json()

    with ThreadPoolExecutor(11) as threads:
        waiting = [threads.submit(ask, token) for token in others]
        mine = threads.submit(pilot.post, "offer", {**OFFER, "wait": 30})
        query = select(slots.c.pilot_id).where(slots.c.vo_id == api.vo_id(api.vo))
        eventually(lambda: len(api.database.transact(lambda tx: tx.rows(query))) == 11)
        matched(api, site, pilot)
        serve(api, pilot)
        assert len(mine.result(timeout=10)["assignments"]) == 1
        assert [reply.result(timeout=10)["assignments"] for reply in waiting] == [[]] * 10


def test_an_assignment_names_inputs_by_site_and_outputs_by_attempt(
    api: RunningApi, site: building.Site, pilot: EnrolledPilot
) -> None:
    far = building.site(api.database, f"AFAR-{api.vo}")
    building.file(api.database, "/in/a b.txt", far, site, vo=api.vo)
    at = matched(
        api, site, pilot, inputs=["/in/a b.txt"], outputs=["out {index}.txt", "{x}"], parameters=[{"x": "../up"}]
    )
    (assignment,) = pilot.post("offer", OFFER)["assignments"]
    (given,) = assignment["inputs"]
    assert given["name"] == "a b.txt"
    assert given["urls"] == [f"file:///{name}-disk/in/a%20b.txt" for name in (site.name, far.name)]
    folder = f"{api.vo}/{at.campaign_id}/s/{at.jobs()[0].id}/a1"
    assert assignment["outputs"] == [{"name": "out 0.txt", "url": f"file:///{site.name}-disk/{folder}/out%200.txt"}]


def test_a_job_goes_from_offer_to_report(api: RunningApi, site: building.Site, pilot: EnrolledPilot) -> None:
    at = matched(api, site, pilot)
    (assignment,) = pilot.post("offer", OFFER)["assignments"]
    ref = {"job_id": assignment["job_id"], "attempt": assignment["attempt"]}
    assert pilot.post("start", {"jobs": [ref]})["accepted"] == [ref]
    beat = pilot.post("heartbeat", {"jobs": [{**ref, "phase": "running"}]})
    assert (beat["stop"], beat["drain"], beat["heartbeat_interval"]) == ([], False, 1.0)
    before = api.services.publisher.depth(["data"])["data"].ready or 0
    for _ in range(2):
        assert pilot.post("report", {"reports": [{**ref, "outcome": "succeeded"}]})["accepted"] == [ref]
    assert at.states() == ["completing"]
    assert api.services.publisher.depth(["data"])["data"].ready == before + 1
    pilot.post("end", {"reason": "idle"})
    pilot.post("end", {"reason": "idle"})
    assert pilot.http.post("/v1/pilots/self/offer", json=OFFER).status_code == 401


def test_a_late_report_is_refused_with_409_and_its_sender_is_told_to_stop(
    api: RunningApi, site: building.Site, pilot: EnrolledPilot
) -> None:
    at = matched(api, site, pilot, **array(2))
    refs = [ref.model_dump() for ref in at.refs()]
    assert len(pilot.post("start", {"jobs": refs})["accepted"]) == 2
    late, good = ({**ref, "outcome": "succeeded"} for ref in refs)
    move(api.database, [late["job_id"]], JobState.RECEIVED)
    match(api.database, at.jobs()[:1], site, building.pilot(api.database, site, vo=api.vo))
    refused = pilot.http.post("/v1/pilots/self/report", json={"reports": [late]})
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    assert "stop these attempts" in refused.json()["detail"]
    assert pilot.post("heartbeat", {"jobs": [{**refs[0], "phase": "running"}]})["stop"] == [
        {**refs[0], "why": "superseded"}
    ]
    both = pilot.post("report", {"reports": [late, good]})
    assert ([one["attempt"] for one in both["refused"]], len(both["accepted"])) == ([1], 1)
    ordinary = {"content-type": "application/json; charset=utf-8"}
    slow = pilot.http.post("/v1/pilots/self/report", content=json.dumps({"reports": [late]}), headers=ordinary)
    assert (slow.status_code, slow.json()) == (409, refused.json())


def test_a_pilots_token_opens_nothing_else_and_a_users_token_no_pilot(api: RunningApi, pilot: EnrolledPilot) -> None:
    for path in ("/v1/campaigns", "/v1/jobs", "/v1/sites", "/v1/tokens"):
        assert pilot.http.get(path).status_code == 403
    with api.http(api.token(Role.OPERATOR)) as http:
        assert http.post("/v1/pilots/self/offer", json=OFFER).status_code == 403
    with api.http() as http:
        assert http.post("/v1/pilots/self/offer", json=OFFER).status_code == 401


def packed(*names: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            entry.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            archive.addfile(entry)
    return buffer.getvalue()


def test_archives_are_taken_for_the_pilots_own_attempts_alone(
    api: RunningApi, site: building.Site, pilot: EnrolledPilot
) -> None:
    (job,) = matched(api, site, pilot).jobs()
    put = pilot.http.put
    content = packed("stdout.txt", "plots/a.png")
    assert put(f"/v1/pilots/self/archives/{job.id}/1", content=content).status_code == 204
    assert api.services.sandboxes.get_archive(api.vo, job.id, 1) == content
    for path in (f"{job.id}/2", f"{job.id + 1000}/1"):
        assert put(f"/v1/pilots/self/archives/{path}", content=content).status_code == 404
    too_large = bytes(11 << 20)
    assert put(f"/v1/pilots/self/archives/{job.id}/1", content=too_large).status_code == 413


@pytest.mark.parametrize(
    "content",
    [packed("/etc/passwd"), packed("../up"), packed("link", kind=tarfile.SYMTYPE), b"no archive", b""],
    ids=["absolute", "above", "link", "garbage", "empty"],
)
def test_an_archive_that_would_leave_its_folder_is_refused(
    api: RunningApi, site: building.Site, pilot: EnrolledPilot, content: bytes
) -> None:
    (job,) = matched(api, site, pilot).jobs()
    reply = pilot.http.put(f"/v1/pilots/self/archives/{job.id}/1", content=content)
    assert (reply.status_code, "archive" in reply.json()["detail"]) == (400, True)


def test_a_sandbox_is_given_while_the_pilot_holds_its_job(
    api: RunningApi, site: building.Site, pilot: EnrolledPilot
) -> None:
    content = packed("run.sh")
    digest = hashlib.sha256(content).hexdigest()
    api.services.sandboxes.put(api.vo, digest, content)
    path = f"/v1/pilots/self/sandboxes/{digest}"
    assert pilot.http.get(path).status_code == 404
    (job,) = matched(api, site, pilot).jobs()
    mine = update(job_specs).where(job_specs.c.id == job.spec_id)
    api.database.transact(lambda tx: tx.run(mine.values(sandbox=digest)))
    assert pilot.http.get(path).content == content
    gone = update(jobs).where(jobs.c.id == job.id)
    api.database.transact(lambda tx: tx.run(gone.values(state="done")))
    assert pilot.http.get(path).status_code == 404


def test_an_api_that_serves_says_so(api: RunningApi) -> None:
    query = select(controls.c.at).where(controls.c.name == "api_serving")
    first = eventually(lambda: api.database.transact(lambda tx: tx.scalar(query)))
    eventually(lambda: api.database.transact(lambda tx: tx.scalar(query)) > first, within=10)
    assert api.database.transact(lambda tx: heartbeats.serving_since(tx, 3.0)) is not None


def test_sites_are_applied_banned_and_allowed_by_operators(api: RunningApi) -> None:
    file = {
        "storages": [{"name": f"disk-{api.vo}", "url": "file://${DATA_DIR}/x"}],
        "sites": [{"name": f"S-{api.vo}", "storages": [f"disk-{api.vo}"], "queues": [{"name": "q"}]}],
    }
    with api.http(api.token(Role.USER)) as http:
        assert http.post("/v1/sites/apply", json=file).status_code == 403
    with api.http(api.token(Role.OPERATOR)) as http:
        dry = http.post("/v1/sites/apply?dry_run=true", json=file).json()
        assert (f"site S-{api.vo}" in dry["added"], dry["dry_run"]) == (True, True)
        assert http.post("/v1/sites/apply", json=file).json()["added"] == dry["added"]
        banned = http.post(f"/v1/sites/S-{api.vo}/ban", json={"why": "broken"})
        assert banned.json()["banned_by"] == f"operator of {api.vo}"
        assert len(http.get("/v1/sites").json()["bans"]) == 1
        assert len(http.post(f"/v1/sites/S-{api.vo}/allow", json={}).json()["lifted"]) == 1
        assert http.get("/v1/sites").json()["bans"] == []
        assert http.post("/v1/sites/nowhere/ban", json={"why": "x"}).status_code == 404
