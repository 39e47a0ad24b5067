"""OTLP over HTTP, by OpenTelemetry's own SDK and exporter.

The spans happened in other processes, before: ids and times are given, nothing is measured here. Resource attributes,
headers, certificates and compression are OpenTelemetry's own variables (OTEL_RESOURCE_ATTRIBUTES,
OTEL_EXPORTER_OTLP_HEADERS, ...), which its library reads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from pipeline.errors import TracesUnavailable
from pipeline.traces.life import Span

TIMEOUT = 3.0
"""Seconds that sending may take, tries of the library's own included."""
_PATH = "/v1/traces"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def open_exporter(url: str) -> OtlpExporter:
    """The exporter to an OTLP endpoint; the usual path is filled in where the URL has none."""
    return OtlpExporter(url if urlsplit(url).path.strip("/") else url.rstrip("/") + _PATH)


class OtlpExporter:
    """Sends spans in one request."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT)
        self._ids, self._ended = _GivenIds(), _Ended()
        ours = Resource({"service.name": "penstock", "service.version": version("penstock")})
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=ours.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("penstock", version("penstock"))

    def send(self, spans: Sequence[Span]) -> None:
        """Send them all, or raise TracesUnavailable; what came of a request that was cut off nobody knows."""
        for span in spans:
            self._record(span)
        with _heard() as words:
            result = self._exporter.export(self._ended.take())
        if result is not SpanExportResult.SUCCESS:
            raise TracesUnavailable(f"{self._url}: {'; '.join(words) or 'not taken'}")

    def close(self) -> None:
        """Give the connection up."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _record(self, span: Span) -> None:
        self._ids.trace_id, self._ids.span_id = int(span.trace_id, 16), int(span.id, 16)
        context = Context()
        if span.parent_id is not None:
            parent = SpanContext(self._ids.trace_id, int(span.parent_id, 16), is_remote=False, trace_flags=_SAMPLED)
            context = trace.set_span_in_context(NonRecordingSpan(parent), context)
        recorded = self._tracer.start_span(
            span.name,
            context,
            attributes=span.attributes,
            links=[_link(traceparent) for traceparent in span.links],
            start_time=_nanoseconds(span.start),
        )
        if span.error:
            recorded.set_status(Status(StatusCode.ERROR, span.error))
        recorded.end(_nanoseconds(span.end))


class _GivenIds(IdGenerator):
    """The ids of the span that is recorded next."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Ended(SpanProcessor):
    """Keeps what has ended until it is taken."""

    def __init__(self) -> None:
        self._kept: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._kept.append(span)

    def take(self) -> list[ReadableSpan]:
        taken, self._kept = self._kept, []
        return taken


class _Listener(logging.Handler):
    """Notes each thing once."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage()
        if words not in self.words:
            self.words.append(words)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The exporter says why it failed to its log alone: it is told once, by us."""
    logger, listener = logging.getLogger(trace_exporter.__name__), _Listener()
    propagates = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield listener.words
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagates


def _link(traceparent: str) -> Link:
    _, trace_id, span_id, flags = traceparent.split("-")
    return Link(
        SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    )


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
