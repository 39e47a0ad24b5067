"""The short way of what pilots say all the time, around the application.

FastAPI's way to a route (a dozen layers, the search for the route, dependencies, two threads) costs several times
what the work of one gathered call does. So well-formed calls with a pilot's token are answered here. Everything else
goes to the application, and so does what can't be answered together with others: the routes' own functions say what
is wrong, and the document and the policies stay true.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pipeline.api.pilot_calls import HEARTBEAT, REPORT, START, PilotCalls, offer, pilot_calls
from pipeline.api.problems import answer_to
from pipeline.api.telemetry import Request, note_request
from pipeline.errors import Conflict, DatabaseUnavailable
from pipeline.store.access import digest
from pipeline.store.pilots import TOKEN_PREFIX
from schemas.pilots import HeartbeatRequest, OfferRequest, ReportRequest, StartRequest

LONGEST_BODY = 1 << 20
"""Bytes; a longer call goes the ordinary way, which has a limit of its own."""
_BEARER = f"bearer {TOKEN_PREFIX}".encode()
_JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Way:
    """What a path takes, and who answers it by the token's digest; None for what must go the ordinary way."""

    body: type[BaseModel]
    answer: Callable[[PilotCalls, str, Any], Awaitable[BaseModel | None]]


WAYS: Mapping[str, Way] = {
    "/v1/pilots/self/offer": Way(OfferRequest, offer),
    "/v1/pilots/self/start": Way(StartRequest, lambda calls, *said: calls.ask(START, *said)),
    "/v1/pilots/self/heartbeat": Way(HeartbeatRequest, lambda calls, *said: calls.ask(HEARTBEAT, *said)),
    "/v1/pilots/self/report": Way(ReportRequest, lambda calls, *said: calls.ask(REPORT, *said)),
}


class ShortWay:
    """The ASGI application that a server serves instead of `app`."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        way = WAYS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        token = None if way is None else _token(scope)
        if way is None or token is None:
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        read = await _read(receive)
        response = None if read.more else await self._answer(way, scope["path"], token, read.content)
        if response is None:
            await self._app(scope, read.again(receive), send)
            return
        path = scope["path"]
        note_request(Request(scope["method"], path, path), response.status_code, time.monotonic() - begun)
        await response(scope, receive, send)

    async def _answer(self, way: Way, path: str, token: str, content: bytes) -> Response | None:
        try:
            body = way.body.model_validate_json(content)
        except ValidationError:
            return None
        try:
            reply = await way.answer(pilot_calls(self._app), digest(token), body)
        except (Conflict, DatabaseUnavailable) as error:
            return answer_to(error, path)
        return None if reply is None else Response(reply.model_dump_json(), media_type="application/json")


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of a body. `more`: it is not all of it."""

    content: bytes
    more: bool

    def again(self, receive: Receive) -> Receive:
        """For the application, as if nothing had been read."""
        is_first = True

        async def replay() -> Message:
            nonlocal is_first
            if is_first:
                is_first = False
                return {"type": "http.request", "body": self.content, "more_body": self.more}
            return await receive()

        return replay


async def _read(receive: Receive) -> _Read:
    content = b""
    while True:
        message = await receive()
        content += message.get("body", b"")
        more = message["type"] == "http.disconnect" or message.get("more_body", False)
        if not more or message["type"] == "http.disconnect" or len(content) > LONGEST_BODY:
            return _Read(content, more)


def _token(scope: Scope) -> str | None:
    """The pilot's token of a request that carries one, and JSON."""
    headers = dict(scope["headers"])
    bearer = headers.get(b"authorization", b"")
    if headers.get(b"content-type") != _JSON or not bearer.lower().startswith(_BEARER):
        return None
    return str(bearer.partition(b" ")[2].decode("latin-1"))
