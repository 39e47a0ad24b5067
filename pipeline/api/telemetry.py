"""Counts and times of requests, by route and not by path: ids would make a series each."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog import get_logger

from pipeline.metrics import HTTP_REQUESTS, HTTP_SECONDS

_log = get_logger("http")
_level = logging.getLogger("http")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Telemetry:
    """ASGI middleware that observes every HTTP request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and observe it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        begun = time.monotonic()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            route = _template(scope)
            note_request(Request(scope["method"], scope["path"], route), status, time.monotonic() - begun)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: the path, and its route."""

    method: str
    path: str
    route: str


def note_request(request: Request, status: int, seconds: float) -> None:
    """Count one request, and say it at debug."""
    method = request.method if request.method in _METHODS else "other"  # anybody may make words up
    HTTP_REQUESTS.labels(method, request.route, str(int(status))).inc()
    HTTP_SECONDS.labels(method, request.route).observe(seconds)
    if _level.isEnabledFor(logging.DEBUG):
        outcome = "failure" if status >= HTTPStatus.BAD_REQUEST else "success"
        about = {"method": request.method, "path": request.path, "status": int(status)}
        _log.debug("request_answered", **about, outcome=outcome, duration=seconds)


def install(app: FastAPI) -> None:
    """Observe the requests of `app`."""
    app.add_middleware(Telemetry)


def _template(scope: Scope) -> str:
    template = getattr(scope.get("route"), "path_format", None)
    return template if isinstance(template, str) else "none"
