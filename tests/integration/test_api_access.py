"""Who may call what: every route of the application, with every role, and without a token."""

from __future__ import annotations

import re

import httpx
import pytest

from pipeline.api.app import create_app
from pipeline.api.policy import Declared, Policy, Public, declared_policies
from pipeline.errors import Unauthorized
from pipeline.store import access
from schemas.api import Page, Role, TokenRequest
from tests.api_server import RunningApi

PERSONS = (Role.USER, Role.OPERATOR, Role.MONITOR)
READING = {"GET", "HEAD"}


@pytest.fixture
def routes(shared_api: RunningApi) -> list[Declared]:
    found = list(declared_policies(create_app(shared_api.services)))
    assert len(found) > 25
    return found


def path_of(route: Declared) -> str:
    """The route's path, with an id that exists nowhere."""
    filled = route.path.replace("{sha256}", "0" * 64)
    return re.sub(r"\{[^}]*\}", "999999999", filled)


def call(http: httpx.Client, route: Declared) -> httpx.Response:
    if route.method in READING:
        return http.request(route.method, path_of(route))
    return http.request(route.method, path_of(route), json={})


def test_every_route_declares_its_policy(routes: list[Declared]) -> None:
    assert not [f"{route.method} {route.path}" for route in routes if route.policy is None]


def test_without_a_valid_token_only_public_routes_answer(api: RunningApi, routes: list[Declared]) -> None:
    for token in (None, "pst_wrong"):
        with api.http(token) as http:
            for route in routes:
                status = call(http, route).status_code
                assert (status == 401) == isinstance(route.policy, Policy), f"{route.method} {route.path}: {status}"


@pytest.mark.parametrize("role", PERSONS)
def test_a_role_is_let_in_exactly_where_the_policy_says(api: RunningApi, routes: list[Declared], role: Role) -> None:
    with api.http(api.token(role)) as http:
        for route in routes:
            allowed = isinstance(route.policy, Public) or (route.policy is not None and role in route.policy.roles)
            answer = call(http, route)
            assert (answer.status_code not in {401, 403}) == allowed, f"{role} {route.method} {route.path}: {answer}"
            assert answer.status_code < 500, f"{role} {route.method} {route.path}: {answer.text}"


def test_an_operator_may_all_that_a_user_may_and_a_monitor_only_reads(routes: list[Declared]) -> None:
    for route in routes:
        if isinstance(route.policy, Policy):
            assert Role.USER not in route.policy.roles or Role.OPERATOR in route.policy.roles
            assert Role.MONITOR not in route.policy.roles or route.method in READING, f"{route.method} {route.path}"


def test_a_pilot_reaches_its_own_routes_and_nothing_else(routes: list[Declared]) -> None:
    for route in routes:
        if isinstance(route.policy, Policy):
            is_pilots_own = route.path.startswith("/v1/pilots/self/")
            assert (Role.PILOT in route.policy.roles) == is_pilots_own, route.path
            assert not is_pilots_own or route.policy.roles == {Role.PILOT}


def test_what_is_public_is_little_and_known(routes: list[Declared]) -> None:
    public = {route.path for route in routes if isinstance(route.policy, Public)}
    assert public == {"/livez", "/readyz", "/metrics", "/v1/schema/campaign", "/v1/pilots/enrol"}


def test_a_refusal_is_a_problem_that_says_what_to_do(api: RunningApi) -> None:
    with api.http() as nobody, api.http(api.token(Role.USER)) as user:
        missing, forbidden = nobody.get("/v1/campaigns"), user.get("/v1/tokens")
    assert missing.headers["content-type"] == forbidden.headers["content-type"] == "application/problem+json"
    assert missing.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in missing.json()["detail"]
    assert forbidden.json()["detail"] == "GET /v1/tokens is for operator; your token's role is user"


def test_tokens_are_made_listed_used_and_revoked_within_the_vo(api: RunningApi) -> None:
    with api.client(Role.OPERATOR) as operator, api.client(Role.OPERATOR, vo="elsewhere") as stranger:
        made = operator.create_token(TokenRequest(role="user", subject="ada", group="analysis", name="laptop"))
        with api.http(made.token) as http:
            me = http.get("/v1/whoami").json()
        assert me == {"subject": "ada", "vo": api.vo, "group": "analysis", "role": "user"}
        assert made.id in [token.id for token in operator.tokens().items]
        assert made.id not in [token.id for token in stranger.tokens().items]
        assert len(operator.tokens(Page(limit=1)).items) == 1
        assert operator.revoke_token(made.id).revoked_at is not None
        with api.http(made.token) as http:
            assert http.get("/v1/whoami").status_code == 401
    with pytest.raises(Unauthorized, match="was revoked"):
        api.database.transact(lambda tx: access.authenticate(tx, made.token))
