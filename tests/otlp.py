"""A place that traces are sent to: an OTLP/HTTP receiver which decodes what OpenTelemetry's own protobuf says."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

ERROR = 2
"""OTLP's code for the status of a span that went wrong."""


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it arrived. Times are nanoseconds, `links` are (trace id, span id)."""

    trace_id: str
    id: str
    parent_id: str
    name: str
    start: int
    end: int
    attributes: Mapping[str, str | int | float]
    error: str | None
    links: tuple[tuple[str, str], ...]
    resource: Mapping[str, str | int | float]


@dataclass(slots=True)
class Receiver:
    """What arrived so far; a request is answered with `status`."""

    url: str
    status: int = 200
    spans: list[Received] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    before_answer: Callable[[], object] = lambda: None
    """What happens when a request has come and before it is answered."""

    def traces(self) -> dict[str, list[Received]]:
        """The spans by trace, each one once, as a place that keeps them by their ids has them."""
        found: dict[str, dict[str, Received]] = {}
        for span in list(self.spans):
            found.setdefault(span.trace_id, {})[span.id] = span
        return {trace_id: list(spans.values()) for trace_id, spans in found.items()}

    def repeated(self) -> int:
        """How many spans came more than once."""
        return sum(many > 1 for many in Counter(span.id for span in self.spans).values())


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """A receiver on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.paths.append(self.path)
            if receiver.status == 200:
                receiver.spans += _decoded(body)
            receiver.before_answer()
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            del code, size

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def _decoded(body: bytes) -> Iterator[Received]:
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            yield from (_received(span, resource) for span in of_scope.spans)


def _received(span: Sent, resource: Mapping[str, str | int | float]) -> Received:
    return Received(
        trace_id=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        error=span.status.message if span.status.code == ERROR else None,
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        resource=resource,
    )


def _values(pairs: Any) -> Mapping[str, str | int | float]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
