"""`/livez`, `/readyz` and `/metrics` of a process that serves no other HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.errors import BadSettings
from pipeline.metrics import LIVE
from pipeline.settings import Settings

_STOP_WITHIN = 0.05
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - it is compared

Complaints = Callable[[], Sequence[str]]
"""What is wrong now, in words; nothing when all is well."""


def name_for_others(host: str) -> str:
    """By what others reach who listens on `host`: of all addresses together, the machine's name."""
    return socket.gethostname() if host in _EVERYWHERE else host


class Checks(Protocol):
    """What a process can say of itself. Both answer from memory, at once."""

    def stuck(self) -> Sequence[str]:
        """Why it makes no progress, so that it should be restarted; empty when it does."""

    def unready(self) -> Sequence[str]:
        """What it can't reach, so that it can't do its work now; empty when it can."""


class HealthServer:
    """The HTTP server, in a thread of its own. Raises BadSettings when the port is taken."""

    def __init__(self, settings: Settings, checks: Checks) -> None:
        address = (settings.health_host, settings.health_port)
        try:
            self._server = _Server(address, checks)
        except OSError as error:
            raise BadSettings(
                f"PENSTOCK_HEALTH_PORT: can't listen on {address[0]}:{address[1]} ({error}); 0 takes any free port"
            ) from error
        host, port = self._server.server_address[:2]
        self.url = f"http://{name_for_others(str(host))}:{port}"
        self._thread = Thread(target=self._server.serve_forever, args=(_STOP_WITHIN,), name="health", daemon=True)

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more; returns within 0.05 s."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], checks: Checks) -> None:
        super().__init__(address, _Handler)
        self.answers: dict[str, Complaints] = {"/livez": checks.stuck, "/readyz": checks.unready}


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            LIVE.set(not self.server.answers["/livez"]())
            self._reply(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest())
        elif path in self.server.answers:
            complaints = list(self.server.answers[path]())
            status = HTTPStatus.SERVICE_UNAVAILABLE if complaints else HTTPStatus.OK
            self._json(status, {"status": "fail" if complaints else "pass", "complaints": complaints})
        else:
            self._json(HTTPStatus.NOT_FOUND, {"status": "fail", "complaints": ["/livez, /readyz or /metrics?"]})

    def _json(self, status: HTTPStatus, body: object) -> None:
        self._reply(status, "application/json", json.dumps(body).encode())

    def _reply(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is the library's
        """Probes come every few seconds; they are not worth a line each."""
