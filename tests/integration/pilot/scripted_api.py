"""A small HTTP server that speaks the pilot protocol from a script, and checks what pilots say against the schemas."""

from __future__ import annotations

import io
import json
import ssl
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel

from schemas.pilots import (
    Assignment,
    AttemptRef,
    EndRequest,
    EnrolReply,
    EnrolRequest,
    HeartbeatReply,
    HeartbeatRequest,
    OfferReply,
    OfferRequest,
    Refusal,
    Report,
    ReportRequest,
    StartRequest,
    Stop,
    Verdict,
)
from tests.waiting import eventually

SECRET = "enrolment-secret-of-the-test"
TOKEN = "token-of-the-pilot"
SELF = "/v1/pilots/self/"
Key = tuple[int, int]


class ScriptedApi:
    """What the test sets: `give`, `sandboxes`, `refuse`, `refuse_reports`, `stops`, `drain`, `terms`, `status`,
    `unknown`.

    A `status` other than 0 is the answer to every call: an outage, a refusal. `unknown` are fields that it refuses, by
    the call's name, as an API of an earlier release does.

    What it then reads: `enrolments`, `offers`, `beats`, `started`, `reports`, `archives`, `ends`.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.url = ""
        self.terms: dict[str, Any] = {"heartbeat_interval": 0.2, "lifetime": 600, "idle_limit": 60, "max_failures": 3}
        self.assigned: dict[Key, Assignment] = {}
        self.sandboxes: dict[str, bytes] = {}
        self.refuse: set[Key] = set()
        self.refuse_reports: set[Key] = set()
        self.report_calls = 0
        self.stops: dict[Key, Stop] = {}
        self.drain = False
        self.status = 0
        self.unknown: dict[str, str] = {}
        self.repeat_started = False
        self.enrolments: list[EnrolRequest] = []
        self.offers: list[OfferRequest] = []
        self.beats: list[HeartbeatRequest] = []
        self.started: list[Key] = []
        self.reports: dict[Key, Report] = {}
        self.archives: dict[Key, bytes] = {}
        self.ends: list[str] = []
        self.failed_calls = 0

    def give(self, job_id: int, *command: str, **fields: Any) -> Key:
        """Assign one attempt: it is in the reply to each offer until a pilot confirms it."""
        plain: dict[str, Any] = {"environment": {}, "sandbox": None, "inputs": (), "outputs": (), "archive": ()}
        room = {"cores": 1, "memory": 500, "disk": 100, "wall_time": 60}
        fields = {**plain, **room, "attempt": 1, **fields}
        assignment = Assignment(job_id=job_id, command=command, **fields)
        key = (job_id, assignment.attempt)
        with self.changed:
            self.assigned[key] = assignment
            self.changed.notify_all()
        return key

    def report_of(self, key: Key) -> Report:
        """The report on one attempt, as soon as it is there."""
        report = eventually(lambda: self.reports.get(key), within=90)
        assert report is not None
        return report

    def archived(self, key: Key) -> dict[str, bytes]:
        """The files in the archive of one attempt."""
        with tarfile.open(fileobj=io.BytesIO(self.archives[key])) as archive:
            files = {entry.name: archive.extractfile(entry) for entry in archive}
            return {name: file.read() for name, file in files.items() if file is not None}

    def stop(self, key: Key, why: Any) -> None:
        """Tell it in each heartbeat that lists the attempt."""
        self.stops[key] = Stop(job_id=key[0], attempt=key[1], why=why)

    def answer(self, path: str, body: bytes) -> BaseModel | None:
        if path == "/v1/pilots/enrol":
            self.enrolments.append(EnrolRequest.model_validate_json(body))
            return EnrolReply(pilot_id=7, token=TOKEN, **self.terms)
        name = path.removeprefix(SELF)
        if name.startswith("archives/"):
            _, job_id, attempt = name.split("/")
            self.archives[int(job_id), int(attempt)] = body
            return None
        reply: BaseModel | None = getattr(self, f"_{name}")(body)
        return reply

    def _offer(self, body: bytes) -> OfferReply:
        offer = OfferRequest.model_validate_json(body)
        with self.changed:
            self.offers.append(offer)
            self.changed.wait_for(self._waiting, timeout=min(offer.wait, 0.5))
            return OfferReply(assignments=tuple(self._waiting()), drain=self.drain)

    def _waiting(self) -> list[Assignment]:
        return [given for key, given in self.assigned.items() if self.repeat_started or key not in self.started]

    def _start(self, body: bytes) -> Verdict:
        jobs = StartRequest.model_validate_json(body).jobs
        accepted = [job for job in jobs if _key(job) not in self.refuse]
        refused = [job for job in jobs if _key(job) in self.refuse]
        for job in jobs:
            self.started.append(_key(job))
        return Verdict(accepted=tuple(accepted), refused=tuple(_refusal(job) for job in refused))

    def _heartbeat(self, body: bytes) -> HeartbeatReply:
        beat = HeartbeatRequest.model_validate_json(body)
        self.beats.append(beat)
        stop = tuple(self.stops[_key(job)] for job in beat.jobs if _key(job) in self.stops)
        return HeartbeatReply(stop=stop, drain=self.drain, heartbeat_interval=self.terms["heartbeat_interval"])

    def _report(self, body: bytes) -> Verdict:
        reports = ReportRequest.model_validate_json(body).reports
        self.reports.update({_key(report): report for report in reports})
        self.report_calls += len(reports)
        return Verdict(
            accepted=tuple(_reference(one) for one in reports if _key(one) not in self.refuse_reports),
            refused=tuple(_refusal(one) for one in reports if _key(one) in self.refuse_reports),
        )

    def _end(self, body: bytes) -> None:
        self.ends.append(EndRequest.model_validate_json(body).reason)


def _key(job: AttemptRef) -> Key:
    return job.job_id, job.attempt


def _reference(job: AttemptRef) -> AttemptRef:
    return AttemptRef(job_id=job.job_id, attempt=job.attempt)


def _refusal(job: AttemptRef) -> Refusal:
    return Refusal(job_id=job.job_id, attempt=job.attempt, reason="the attempt is not yours")


class QuietServer(ThreadingHTTPServer):
    """Says nothing of requests that break off: pilots are killed in the middle of them."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to do."""


@contextmanager
def serving(api: ScriptedApi, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedApi]:
    """Serve `api` on a free port, over HTTPS with `tls`; its `url` is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = api.sandboxes.get(self.path.rpartition("/")[2])
            if self._let_in():
                self._send(404 if content is None else 200, content or b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            unknown = api.unknown.get(self.path.rpartition("/")[2])
            if unknown and f'"{unknown}": '.encode() in body:
                api.failed_calls += 1
                self._send(422, b'{"title": "scripted", "status": 422}')
            elif self._let_in():
                reply = api.answer(self.path, body)
                is_late = self.path.endswith("/report") and isinstance(reply, Verdict) and not reply.accepted
                self._send(
                    409 if is_late else 200 if reply else 204, reply.model_dump_json().encode() if reply else b""
                )

        def do_PUT(self) -> None:
            self.do_POST()

        def _let_in(self) -> bool:
            status = api.status
            if not status and not self.path.endswith("/enrol") and self.headers["Authorization"] != f"Bearer {TOKEN}":
                status = 401
            if status:
                api.failed_calls += 1
                self._send(status, json.dumps({"title": "scripted", "status": status}).encode())
            return not status

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: Any, **_options: Any) -> None:
            """Tests print nothing."""

    server = QuietServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    api.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
