"""Who may call a route. Every route declares its policy, and a test finds the one that does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from pipeline.api.services import ServicesOf
from pipeline.errors import Forbidden, Unauthorized
from pipeline.store.access import Caller, authenticate
from schemas.api import Role

_bearer = HTTPBearer(auto_error=False, description="a token, as `penstock tokens create` prints it")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


@dataclass(frozen=True, slots=True)
class Policy:
    """A dependency that lets callers of some roles in, and gives the route its Caller."""

    roles: frozenset[Role]

    def __call__(self, request: Request, services: ServicesOf, credentials: Credentials) -> Caller:
        """The caller. Raises Unauthorized without a valid token, Forbidden for another role."""
        if credentials is None:
            raise Unauthorized("this route wants a token: send `Authorization: Bearer TOKEN`")
        caller = services.database.read(lambda tx: authenticate(tx, credentials.credentials))
        if caller.role not in self.roles:
            wanted = ", ".join(sorted(self.roles))
            route = f"{request.method} {request.url.path}"
            raise Forbidden(f"{route} is for {wanted}; your token's role is {caller.role}")
        return caller


@dataclass(frozen=True, slots=True)
class Public:
    """The policy of a route that wants no token."""

    async def __call__(self) -> None:
        """Let everybody in; without a thread, of which none may be free."""


def policy(*roles: Role | str) -> Policy:
    """The policy of these roles; an operator may what a user may."""
    wanted = {Role(role) for role in roles}
    if Role.USER in wanted:
        wanted.add(Role.OPERATOR)
    return Policy(frozenset(wanted))


public = Public()

FOR_ALL = [Depends(public)]
"""`dependencies` of a public route."""

User = Annotated[Caller, Depends(policy(Role.USER))]
Operator = Annotated[Caller, Depends(policy(Role.OPERATOR))]
Reader = Annotated[Caller, Depends(policy(Role.USER, Role.MONITOR))]
Watcher = Annotated[Caller, Depends(policy(Role.OPERATOR, Role.MONITOR))]
PilotCaller = Annotated[Caller, Depends(policy(Role.PILOT))]


@dataclass(frozen=True, slots=True)
class Declared:
    """A route of an application with its policy, None where it declares none."""

    method: str
    path: str
    policy: Policy | Public | None
    response_model: Any


def declared_policies(app: FastAPI) -> Iterator[Declared]:
    """Every route under /v1 and every other one that the application itself adds, with its policy."""
    for context in iter_route_contexts(app.routes):
        dependant = getattr(context, "dependant", None)
        if dependant is None or context.path is None:
            continue
        found = [call for call in _calls(dependant) if isinstance(call, Policy | Public)]
        for method in sorted(context.methods or ()):
            model = getattr(context, "response_model", None)
            yield Declared(method, context.path, found[0] if found else None, model)


def _calls(dependant: Any) -> Iterable[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)
