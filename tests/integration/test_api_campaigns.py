"""Campaigns and jobs over HTTP, against the real server on SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from pipeline.client import Client
from pipeline.errors import BadInput, Conflict, Forbidden, NotFound
from pipeline.store import jobs
from pipeline.store.database import Transaction
from pipeline.transport.memory import memory_broker
from schemas.api import CampaignQuery, JobQuery, JobSelection, Role
from schemas.campaign import Campaign
from schemas.site_views import AllowRequest, BanRequest
from schemas.sites import SitesFile
from schemas.states import CampaignState, JobState
from tests.api_server import RunningApi, running_api


def campaign(name: str = "c", jobs: int = 3) -> Campaign:
    step = {"name": "s", "command": ["echo", "{i}"], "parameters": [{"i": index} for index in range(jobs)]}
    return Campaign.model_validate({"campaign": name, "steps": [step]})


def fail_every_job(api: RunningApi, campaign_id: int) -> None:
    def work(tx: Transaction) -> None:
        found = [job for job in jobs.lock(tx, range(1, 200)) if job.campaign_id == campaign_id]
        jobs.apply(tx, [jobs.Change(job, JobState.FAILED, "made to fail by a test") for job in found])

    api.database.transact(work)


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def shared_api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    on_mariadb = request.param == "mariadb"
    url = request.getfixturevalue("mariadb_server").new_database() if on_mariadb else ""
    with running_api(tmp_path_factory.mktemp("api"), database_url=url) as running:
        yield running


def test_a_submitted_campaign_is_stored_published_and_shown(api: RunningApi) -> None:
    before = api.services.publisher.depth(["optimisation"])["optimisation"].ready or 0
    with api.client(subject="ada") as client:
        reply = client.submit(campaign(jobs=3))
        assert (reply.name, reply.jobs) == ("c", 3)
        view = client.campaign(reply.campaign_id)
    assert (view.state, view.owner) == (CampaignState.RUNNING, "ada")
    assert [(step.name, dict(step.jobs)) for step in view.steps] == [("s", {JobState.RECEIVED: 3})]
    assert api.services.publisher.depth(["optimisation"])["optimisation"].ready == before + 1


def test_the_same_key_and_body_twice_is_one_campaign(api: RunningApi) -> None:
    with api.client() as client:
        with capture_logs() as said:
            first = client.submit(campaign(), key="k")
            again = client.submit(campaign(), key="k")
        assert [line["campaign_id"] for line in said if line["event"] == "campaign_submitted"] == [first.campaign_id]
        assert first.campaign_id == again.campaign_id
        assert len(client.campaigns().items) == 1


def test_the_same_key_with_another_body_is_a_conflict(api: RunningApi) -> None:
    with api.client() as client:
        client.submit(campaign("one"), key="k")
        with pytest.raises(Conflict, match="belongs to another request"):
            client.submit(campaign("two"), key="k")


def test_the_same_request_many_times_at_once_is_one_campaign(api: RunningApi) -> None:
    token = api.token(Role.USER)

    def submit(_turn: int) -> int | str:
        with Client(api.url, token) as client:
            try:
                return client.submit(campaign(jobs=50), key="k").campaign_id
            except Conflict as error:
                return str(error)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(submit, range(16)))
    with Client(api.url, token) as client:
        (only,) = client.campaigns().items
        assert set(client.campaign(only.id).steps[0].jobs.values()) == {50}
    assert only.id in answers
    assert all(answer == only.id or "is still arriving" in str(answer) for answer in answers), answers


def test_a_key_belongs_to_its_owner(api: RunningApi) -> None:
    with api.client(subject="ada") as ada, api.client(subject="bob") as bob:
        assert ada.submit(campaign(), key="k").campaign_id != bob.submit(campaign(), key="k").campaign_id


def test_a_sandbox_that_was_not_uploaded_is_refused_with_its_field(api: RunningApi) -> None:
    step = {"name": "s", "command": ["./run"], "sandbox": ["run"]}
    description = Campaign.model_validate({"campaign": "c", "steps": [step]})
    with api.client() as client, pytest.raises(BadInput, match="was not uploaded") as caught:
        client.submit(description, {"s": "a" * 64})
    assert caught.value.field == "sandboxes.s"


def test_an_invalid_job_file_is_refused_with_field_and_reason(api: RunningApi) -> None:
    body = {"description": {"campaign": "c", "steps": [{"name": "s", "command": []}]}, "unknown": 1}
    with api.http(api.token(Role.USER)) as http:
        answer = http.post("/v1/campaigns", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail", "errors"} <= set(problem)
    assert problem["status"] == 422
    assert {"description.steps.0.command", "unknown"} == {error["field"] for error in problem["errors"]}


def test_campaigns_come_newest_first_a_page_at_a_time(api: RunningApi) -> None:
    with api.client() as client:
        ids = [client.submit(campaign(f"c{n}", jobs=1)).campaign_id for n in range(5)]
        seen: list[int] = []
        after: int | None = 0
        while after is not None:
            page = client.campaigns(CampaignQuery(after=after, limit=2))
            assert len(page.items) <= 2
            seen += [item.id for item in page.items]
            after = page.next
        assert seen == ids[::-1]
        named = client.campaigns(CampaignQuery(name="c3", state=(CampaignState.RUNNING,)))
        assert [item.name for item in named.items] == ["c3"]
        assert not client.campaigns(CampaignQuery(state=(CampaignState.DONE,))).items


def test_jobs_are_filtered_and_paged(api: RunningApi) -> None:
    with api.client() as client:
        mine = client.submit(campaign(jobs=7)).campaign_id
        client.submit(campaign(jobs=2))
        found = client.jobs(JobQuery(campaign=mine, limit=3))
        assert [job.index for job in found.items] == [0, 1, 2]
        following = client.jobs(JobQuery(campaign=mine, limit=3, after=found.next or 0))
        assert [job.index for job in following.items] == [3, 4, 5]
        assert [job.index for job in client.every_job(JobQuery(campaign=mine))] == list(range(7))
        ids = (found.items[0].id, found.items[2].id)
        assert [job.id for job in client.jobs(JobQuery(id=ids)).items] == list(ids)
        assert not client.jobs(JobQuery(campaign=mine, state=(JobState.DONE, JobState.FAILED))).items
        assert not client.jobs(JobQuery(step="other")).items


def test_a_job_shows_what_it_runs_and_its_history(api: RunningApi) -> None:
    with api.client(subject="ada") as client:
        client.submit(campaign(jobs=2))
        first, second = client.jobs().items
        view = client.job(second.id)
    assert view.command == ("echo", "1")
    assert view.parameters == {"campaign": "c", "step": "s", "index": 1, "i": 1}
    assert [(event.from_state, event.to_state) for event in view.events] == [(None, JobState.RECEIVED)]
    assert (view.owner, view.attempts, view.peek, view.outputs) == ("ada", (), None, ())
    assert first.index == 0


def test_an_unchanged_campaign_answers_304_to_its_etag(api: RunningApi) -> None:
    token = api.token(Role.USER)
    with api.client() as client, api.http(token) as http:
        path = f"/v1/campaigns/{client.submit(campaign()).campaign_id}"
        etag = http.get(path).headers["etag"]
        unchanged = http.get(path, headers={"If-None-Match": etag})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        client.kill(JobSelection(states=(JobState.RECEIVED,)))
        assert http.get(path, headers={"If-None-Match": etag}).status_code == 200


def test_a_paused_campaign_resumes_and_a_cancelled_one_has_killed_jobs(api: RunningApi) -> None:
    with api.client() as client:
        mine = client.submit(campaign(jobs=3)).campaign_id
        assert client.command(mine, "pause").state is CampaignState.PAUSED
        with pytest.raises(Conflict, match="is paused"):
            client.command(mine, "pause")
        assert client.command(mine, "resume").state is CampaignState.RUNNING
        cancelled = client.command(mine, "cancel")
        assert (cancelled.state, cancelled.changed) == (CampaignState.CANCELLED, 3)
        assert {job.state for job in client.jobs().items} == {JobState.KILLED}


def test_failed_jobs_are_retried_by_campaign_and_by_filter(api: RunningApi) -> None:
    with api.client() as client:
        mine = client.submit(campaign(jobs=3)).campaign_id
        fail_every_job(api, mine)
        assert client.command(mine, "retry").changed == 3
        fail_every_job(api, mine)
        one = client.jobs(JobQuery(campaign=mine)).items[0].id
        assert client.retry(JobSelection(ids=(one,))).changed == 1
        assert client.job(one).state is JobState.RECEIVED


def test_bulk_commands_want_a_condition(api: RunningApi) -> None:
    with api.client() as client, pytest.raises(BadInput, match="at least one condition"):
        client.kill(JobSelection())


def test_accepting_a_step_that_is_not_blocked_is_a_conflict(api: RunningApi) -> None:
    with api.client() as client:
        mine = client.submit(campaign()).campaign_id
        with pytest.raises(Conflict, match="only a blocked step"):
            client.accept(mine, "s")
        with pytest.raises(BadInput, match="has no step 'other'"):
            client.accept(mine, "other")


def test_a_user_commands_only_what_is_theirs_an_operator_the_whole_vo(api: RunningApi) -> None:
    with api.client(subject="ada") as ada, api.client(subject="bob") as bob, api.client(Role.OPERATOR) as operator:
        mine = ada.submit(campaign(jobs=2)).campaign_id
        assert bob.campaign(mine).owner == "ada"
        with pytest.raises(Forbidden, match="belongs to ada"):
            bob.command(mine, "cancel")
        assert bob.kill(JobSelection(campaign_id=mine)).changed == 0
        assert operator.kill(JobSelection(campaign_id=mine)).changed == 2


def test_another_vo_sees_and_changes_nothing(api: RunningApi) -> None:
    with api.client() as mine, api.client(Role.OPERATOR, vo="other") as other:
        campaign_id = mine.submit(campaign(jobs=2)).campaign_id
        job_id = mine.jobs().items[0].id
        assert not other.campaigns().items
        assert not other.jobs(JobQuery(id=(job_id,))).items
        for ask in (
            lambda: other.campaign(campaign_id),
            lambda: other.command(campaign_id, "cancel"),
            lambda: other.accept(campaign_id, "s"),
            lambda: other.job(job_id),
            lambda: other.logs(job_id),
            lambda: other.archive(job_id),
            lambda: other.outputs(job_id),
        ):
            with pytest.raises(NotFound):
                ask()
        assert other.kill(JobSelection(ids=(job_id,))).changed == 0
        assert mine.job(job_id).state is JobState.RECEIVED


def test_a_submission_survives_a_broker_that_is_down(api: RunningApi) -> None:
    broker = memory_broker(api.services.settings.broker_url.removeprefix("memory://"))
    broker.stop()
    with api.client() as client:
        assert client.campaign(client.submit(campaign()).campaign_id).state is CampaignState.RUNNING
    broker.start()


def test_the_published_schema_describes_the_job_file(api: RunningApi) -> None:
    with api.http() as http:
        assert json.loads(http.get("/v1/schema/campaign").content) == Campaign.model_json_schema()


def test_a_step_that_no_site_queue_can_run_is_taken_with_a_warning(api: RunningApi) -> None:
    queue = {"name": "short", "cores": 4, "memory": 8000, "vos": [api.vo]}
    site = {"name": f"site-{api.vo}", "storages": ["disk"], "queues": [queue]}
    sites = SitesFile.model_validate({"storages": [{"name": "disk", "url": "file:///data"}], "sites": [site]})
    steps = [
        {"name": "fits", "command": ["true"]},
        {"name": "huge", "command": ["true"], "requirements": {"cores": 64}},
    ]
    description = Campaign.model_validate({"campaign": "c", "steps": steps})
    with api.client(Role.OPERATOR) as client:
        (first, _) = client.submit(description).warnings
        assert "no site queue is declared for this VO" in first
        assert client.apply_sites(sites, dry_run=True).dry_run
        assert not client.apply_sites(sites).dry_run
        (only,) = client.submit(description).warnings
        assert only.startswith("step huge is held")
        assert "wants cores 64, has 4" in only
        ban = client.ban_site(f"site-{api.vo}", BanRequest(why="a test"))
        assert (ban.site, ban.why) == (f"site-{api.vo}", "a test")
        assert len(client.submit(description).warnings) == 2
        assert len(client.allow_site(f"site-{api.vo}", AllowRequest()).lifted) == 1
        assert f"site-{api.vo}" in {site.name for site in client.sites().sites}
