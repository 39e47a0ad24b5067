"""Bans end at the walls of a VO: an operator bans and allows for the own one; a ban on everybody is not the API's."""

from __future__ import annotations

import pytest

from schemas.api import Role
from tests import building
from tests.api_server import RunningApi, running_api


@pytest.fixture
def site(api: RunningApi) -> str:
    """The name of a site that is there."""
    name = f"SITE-{api.vo}"
    building.site(api.database, name)
    return name


def test_an_operators_ban_is_on_the_own_vo_and_no_other_sees_or_lifts_it(api: RunningApi, site: str) -> None:
    strangers = api.in_new_vo()
    with api.http(api.token(Role.OPERATOR)) as mine, strangers.http(strangers.token(Role.OPERATOR)) as theirs:
        unnamed = mine.post(f"/v1/sites/{site}/ban", json={"why": "broken"}).json()
        named = mine.post(f"/v1/sites/{site}/ban", json={"why": "broken", "vo": api.vo}).json()
        assert unnamed["vo"] == named["vo"] == api.vo
        assert theirs.get("/v1/sites").json()["bans"] == []
        assert theirs.post(f"/v1/sites/{site}/allow", json={}).json()["lifted"] == []
        assert len(mine.get("/v1/sites").json()["bans"]) == 2
        assert len(mine.post(f"/v1/sites/{site}/allow", json={}).json()["lifted"]) == 2


@pytest.mark.parametrize("command", ["ban", "allow"])
def test_another_vo_is_not_to_be_named(api: RunningApi, site: str, command: str) -> None:
    strangers = api.in_new_vo()
    strangers.vo_id(strangers.vo)
    body = {"vo": strangers.vo} | ({"why": "malice"} if command == "ban" else {})
    with api.http(api.token(Role.OPERATOR)) as http:
        refused = http.post(f"/v1/sites/{site}/{command}", json=body)
    assert refused.status_code == 403
    assert api.vo in refused.json()["detail"]


def test_a_ban_on_everybody_is_shown_to_all_and_lifted_by_no_vos_operator(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running_api(tmp_path_factory.mktemp("api")) as api:
        ban_id = building.ban(api.database, building.site(api.database, "CLOSED"))
        for vo in ("a", "b"):
            with api.http(api.token(Role.OPERATOR, vo)) as http:
                assert http.post("/v1/sites/CLOSED/allow", json={}).json()["lifted"] == []
                assert [(ban["id"], ban["vo"]) for ban in http.get("/v1/sites").json()["bans"]] == [(ban_id, None)]


def test_a_ban_that_is_over_before_it_begins_is_refused(api: RunningApi, site: str) -> None:
    with api.http(api.token(Role.OPERATOR)) as http:
        refused = http.post(f"/v1/sites/{site}/ban", json={"why": "x", "until": "2020-01-01T00:00:00Z"})
        assert refused.status_code == 400
        assert "is past" in refused.json()["detail"]
        assert http.get("/v1/sites").json()["bans"] == []
