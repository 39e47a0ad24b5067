"""Routes whose calls are gathered: what a running pilot says goes the short way, everything else the ordinary one.

The short way reads the body and the token, and no more: FastAPI's way through dependencies and threads costs several
times what the work of one such call does. What it can't answer, the route's own function answers, errors among it, so
that the document and the policy of the route stay true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from pipeline.api.pilot_calls import PilotCalls, pilot_calls
from pipeline.store.access import digest
from pipeline.store.pilots import TOKEN_PREFIX

Q = TypeVar("Q", bound=BaseModel)

_BEARER = f"bearer {TOKEN_PREFIX}"


def together(body: type[Q], answer: Callable[[PilotCalls, str, Q], Awaitable[BaseModel | None]]) -> type[APIRoute]:
    """The class of a route that takes `body`, and whose calls `answer` answers by their tokens' digests if it can."""

    class Together(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            ordinary = super().get_route_handler()

            async def handle(request: Request) -> Response:
                said = await _said(request, body)
                answered = None if said is None else await answer(pilot_calls(request.app), *said)
                if answered is None:
                    return await ordinary(request)
                return Response(answered.model_dump_json(), media_type="application/json")

            return handle

    return Together


async def _said(request: Request, body: type[Q]) -> tuple[str, Q] | None:
    """The digest of the token, and the body; None for what is no well-formed call of a pilot."""
    token = request.headers.get("authorization", "")
    if not token.lower().startswith(_BEARER) or request.headers.get("content-type") != "application/json":
        return None
    try:
        return digest(token.partition(" ")[2]), body.model_validate_json(await request.body())
    except ValidationError:
        return None
