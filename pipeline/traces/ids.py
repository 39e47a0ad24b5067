"""The ids of traces and spans: hashes, so that every process and every release says the same and nothing is stored."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from hashlib import blake2b

_TRACE_BYTES, _SPAN_BYTES = 16, 8
_DECIDING = 1 << 64
"""The lower half of a trace's id decides, as it does for OpenTelemetry's TraceIdRatioBased: one of those behind us
that keeps less keeps a part of ours."""
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LENGTH = 55


def trace_id(job_id: int, created_at: datetime) -> str:
    """The id of a job's trace, 32 hexadecimal digits.

    The time is in it because ids begin at 1 in each installation, and several may send to one place.
    """
    moment = created_at.astimezone(UTC).isoformat(timespec="microseconds")
    return blake2b(f"{job_id} {moment}".encode(), digest_size=_TRACE_BYTES, person=b"penstock.job").hexdigest()


def span_id(trace: str, place: str) -> str:
    """The id of the span at a place of its trace, 16 hexadecimal digits."""
    return blake2b(f"{trace} {place}".encode(), digest_size=_SPAN_BYTES, person=b"penstock.span").hexdigest()


def is_traced(trace: str, share: float) -> bool:
    """Whether a trace is made where this share of them is: whoever asks gets the same answer."""
    return int(trace, 16) % _DECIDING < round(share * _DECIDING)


def shown(job_id: int, created_at: datetime, *, share: float) -> str | None:
    """The id of the trace of a job that is traced, else None."""
    trace = trace_id(job_id, created_at)
    return trace if is_traced(trace, share) else None


def traceparent(header: str | None) -> str | None:
    """A W3C `traceparent` as we keep it, None for none. What is no valid one is left out, as W3C asks, not refused.

    Later versions may append to it; what they have in common with version 00 is read.
    """
    text = (header or "").strip()
    if not _TRACEPARENT.fullmatch(text[:_LENGTH]) or text[_LENGTH : _LENGTH + 1] not in {"", "-"}:
        return None
    if text.startswith("00") and len(text) > _LENGTH:
        return None
    return f"00{text[2:_LENGTH]}"
