"""A route that declares no policy is found."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from pipeline.api.policy import FOR_ALL, Policy, Public, User, declared_policies, policy
from schemas.api import Role


def test_a_route_without_a_policy_is_found_however_deep_its_router_lies() -> None:
    router, inner, app = APIRouter(prefix="/v1"), APIRouter(prefix="/inner"), FastAPI()

    @inner.get("/forgotten")
    def forgotten() -> int:
        return 1

    @router.get("/guarded")
    def guarded(_caller: User) -> int:
        return 1

    @router.get("/open", dependencies=FOR_ALL)
    def open_to_all() -> int:
        return 1

    router.include_router(inner)
    app.include_router(router)
    found = {route.path: route.policy for route in declared_policies(app)}
    assert found["/v1/inner/forgotten"] is None
    assert isinstance(found["/v1/guarded"], Policy)
    assert isinstance(found["/v1/open"], Public)


def test_a_policy_for_users_lets_operators_in_and_one_for_operators_no_users() -> None:
    assert policy(Role.USER).roles == {Role.USER, Role.OPERATOR}
    assert policy("operator").roles == {Role.OPERATOR}
    assert policy("pilot").roles == {Role.PILOT}
