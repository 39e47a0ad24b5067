"""Counts and times of requests, by route and not by path: ids would make a series each."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.metrics import HTTP_REQUESTS, HTTP_SECONDS


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
            note_request(scope["method"], route, status, time.monotonic() - begun)


def note_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one request."""
    HTTP_REQUESTS.labels(method, route, str(int(status))).inc()
    HTTP_SECONDS.labels(method, route).observe(seconds)


def install(app: FastAPI) -> None:
    """Observe the requests of `app`."""
    app.add_middleware(Telemetry)


def _template(scope: Scope) -> str:
    template = getattr(scope.get("route"), "path_format", None)
    return template if isinstance(template, str) else "none"
