"""What a node would get now, over HTTP: the order of matching, what is passed over and why, and nothing assigned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import func, select

from pipeline.errors import NotFound
from pipeline.store.database import Transaction
from pipeline.store.tables import identities, jobs, start_rates, usage, waiting_jobs
from schemas.api import Role
from schemas.match_views import MatchRequest, MatchView
from schemas.policy import Policy
from tests import building
from tests.api_server import RunningApi, running_api
from tests.backlog import person, waiting


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def shared_api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    on_mariadb = request.param == "mariadb"
    url = request.getfixturevalue("mariadb_server").new_database() if on_mariadb else ""
    with running_api(tmp_path_factory.mktemp("api"), database_url=url) as running:
        yield running


def node(at: building.Site, **words: Any) -> dict[str, Any]:
    return {"site": at.name, "cores": 4, "memory": 8192, "disk": 10_240, "wall_time": 86_400, **words}


def ask(api: RunningApi, at: building.Site, *, most: int = 100, **words: Any) -> MatchView:
    request = MatchRequest.model_validate({"resource": node(at, **words), "jobs": most})
    with api.client() as client:
        return client.match(request)


def site(api: RunningApi, **words: Any) -> building.Site:
    return building.site(api.database, f"A-{api.vo}", vos=[api.vo], **words)


def test_the_jobs_are_told_in_the_order_of_matching_and_none_is_assigned(api: RunningApi) -> None:
    at, alice = site(api), person(api.database, api.vo)
    low, high = waiting(api.database, alice, 3), waiting(api.database, alice, 2, priority=5)
    rows = api.database.read(lambda tx: tx.scalar(select(func.count()).select_from(waiting_jobs)))
    view = ask(api, at)
    assert [(one.priority, one.jobs, one.first_job) for one in view.matched] == [(5, 2, high[0]), (0, 2, low[0])]
    assert (view.jobs, view.cores, view.site) == (4, 4, at.name)
    assert (view.matched[0].owner, view.matched[0].group, view.matched[0].step) == ("alice", "prod", "s")
    assert (view.matched[0].cores, view.matched[0].memory, view.matched[0].alternative) == (1, 1024, None)
    (passed,) = view.passed
    assert (passed.first_job, passed.reason) == (
        low[2],
        "no more of them: others come first, and no room is left for it",
    )
    query = select(jobs.c.state).where(jobs.c.id.in_([*low, *high])).distinct()
    assert api.database.read(lambda tx: [row.state for row in tx.rows(query)]) == ["waiting"]
    assert api.database.read(lambda tx: tx.scalar(select(func.count()).select_from(waiting_jobs))) == rows
    assert ask(api, at) == view


def test_shares_decide_who_comes_first(api: RunningApi) -> None:
    at, alice, carol = site(api), person(api.database, api.vo), person(api.database, api.vo, "carol", "user")
    waiting(api.database, alice, 10)
    waiting(api.database, carol, 10)

    def use(tx: Transaction) -> None:
        group_id = tx.scalar(select(identities.c.group_id).where(identities.c.id == alice.identity_id))
        key = {"vo_id": alice.vo_id, "group_id": group_id, "owner_id": alice.identity_id}
        tx.add(usage, **key, weight=1e9, landmark=tx.now)

    api.database.transact(use)
    view = ask(api, at)
    assert [(one.owner, one.jobs) for one in view.matched] == [("carol", 4)]
    assert [one.owner for one in view.passed if one.reason.startswith("others come first")] == ["alice"]


def test_what_does_not_suit_is_counted_by_reason(api: RunningApi) -> None:
    at, alice = site(api), person(api.database, api.vo)
    first = waiting(api.database, alice, requirements={"cores": 8})
    waiting(api.database, alice, requirements={"cores": 8, "tags": ["gpu"]})
    waiting(api.database, alice, requirements={"wall_time": 90_000})
    view = ask(api, at)
    assert (view.jobs, view.matched, view.passed) == (0, (), ())
    found = {one.reason: (one.kinds, one.first_job) for one in view.unfit}
    assert found["wants cores 8, has 4"] == (2, first[0])
    assert any("wall_time" in reason for reason in found)
    assert view.unfit[0].kinds == 2


def test_limits_and_start_rates_are_named_where_they_are_what_keeps_jobs_back(api: RunningApi) -> None:
    at, alice = site(api), person(api.database, api.vo)
    waiting(api.database, alice, 5, job_type="Merge")
    limit = {"name": "merges", "max_running": 2, "job_type": "Merge"}
    with api.client(Role.OPERATOR) as client:
        client.apply_policy(Policy.model_validate({"limits": [limit]}))
    view = ask(api, at)
    assert (view.jobs, view.passed[0].reason) == (2, "no more of them: limit merges would be full")
    api.database.transact(lambda tx: tx.add(start_rates, site_id=at.id, jobs=10, period=1e9, tokens=1.0, at=tx.now))
    view = ask(api, at)
    assert (view.jobs, view.passed[0].reason) == (
        1,
        f"no more of them: as many as may start at {at.name} now would have started",
    )


def test_a_full_site_gives_nothing(api: RunningApi) -> None:
    at, alice = site(api, running=0), person(api.database, api.vo)
    waiting(api.database, alice)
    assert [one.reason for one in ask(api, at).passed] == ["the site's limit would be full"]


def test_no_more_jobs_are_told_than_were_asked_for(api: RunningApi) -> None:
    at = site(api)
    waiting(api.database, person(api.database, api.vo), 5)
    view = ask(api, at, most=3)
    assert (view.jobs, view.passed[0].reason) == (3, "no more of them: the preview ends before it")


def test_the_alternative_by_which_a_job_would_run_is_told(api: RunningApi) -> None:
    at = site(api)
    waiting(
        api.database, person(api.database, api.vo), requirements={"any_of": [{"tags": ["gpu"]}, {"cores": {"min": 2}}]}
    )
    (one,) = ask(api, at).matched
    assert (one.alternative, one.cores) == (1, 4)


def test_a_site_in_test_mode_or_banned_is_told_with_its_consequence(api: RunningApi) -> None:
    at, alice = site(api), person(api.database, api.vo)
    waiting(api.database, alice)
    building.ban(api.database, at, vo=api.vo, only_job_type="test")
    view = ask(api, at)
    assert (view.jobs, view.unfit[0].reason) == (0, "the site is in test mode: only jobs of type test")
    assert view.warnings == (f"{at.name} is in test mode: only jobs of type test may run there",)
    building.ban(api.database, at, vo=api.vo, banned_by="carol", why="cooling")
    assert ask(api, at).warnings[0] == (
        f"{at.name} is banned by carol: cooling; no node there gets anything as long as it is"
    )


def test_other_vos_jobs_are_not_told(api: RunningApi, shared_api: RunningApi) -> None:
    at, other = site(api), shared_api.in_new_vo()
    waiting(other.database, person(other.database, other.vo), 3)
    view = ask(api, at)
    assert (view.jobs, view.matched, view.passed, view.unfit) == (0, (), (), ())


def test_a_site_that_nobody_declared_is_refused(api: RunningApi) -> None:
    nowhere = building.Site(0, "ATLANTIS", 0, 0)
    with pytest.raises(NotFound, match="there is no site 'ATLANTIS'") as caught:
        ask(api, nowhere)
    assert caught.value.field == "resource.site"


@pytest.mark.parametrize(
    ("words", "field", "reason"),
    [
        ({"cores": -1}, "resource.cores", "greater than or equal to 1"),
        ({"memory": 2**31}, "resource.memory", "less than or equal to"),
        ({"colour": "red"}, "resource.colour", "Extra inputs are not permitted"),
        ({"tags": ["a & b"]}, "resource.tags.0", "match pattern"),
        ({"tags": ["x" * 10_000]}, "resource.tags.0", "match pattern"),
        ({"power": "inf"}, "resource.power", "finite number"),
        ({"system": {"glibc": "new"}}, "resource.system.glibc", "version"),
        ({"gpu": {"count": 0}}, "resource.gpu.count", "greater than or equal to 1"),
    ],
    ids=["negative", "huge", "unknown", "expression", "long", "infinite", "version", "gpu"],
)
def test_a_nonsense_node_is_refused_with_the_field_and_the_reason(
    api: RunningApi, words: dict[str, Any], field: str, reason: str
) -> None:
    with api.http(api.token(Role.USER)) as http:
        resource = {"site": "A", "cores": 1, "memory": 1, "disk": 1, "wall_time": 1, **words}
        answer = http.post("/v1/match", json={"resource": resource})
    assert answer.status_code == 422
    found = {error["field"]: error["reason"] for error in answer.json()["errors"]}
    assert field in found, found
    assert reason in found[field]
