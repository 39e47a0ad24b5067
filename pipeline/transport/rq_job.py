"""One message as one RQ job: the hash that RQ writes and reads, with RQ's JSON serializer.

Written by hand rather than through `rq.job.Job`, which costs several times more per message. The
conformance suite reads it back with RQ's own `Job.fetch`.
"""

from __future__ import annotations

import zlib

from pydantic_core import from_json, to_json

from schemas.messages import Message

FUNCTION = "pipeline.rq_round.execute_message"
"""What a stock RQ worker calls, with the message as JSON text."""

TIMEOUT = 180
"""Seconds that a stock RQ worker gives a message."""
FAILURE_TTL = 86_400
"""Seconds that RQ keeps a message that failed in a stock worker."""

_HEAD, _TAIL = f'["{FUNCTION}", null, ['.encode(), b"], {}]"
_FAST = 1
_LONG = 2_048
"""Bytes of a job's data from which it is compressed; RQ reads both, and for a short one it costs more than all else."""


def job_id(message: Message) -> str:
    """RQ's id of this attempt at the message."""
    return f"{message.id}-{message.attempt}"


def job_description(message: Message) -> str:
    """What `rq info` and rq-dashboard show of it."""
    return f"{message.type} attempt {message.attempt}"


def job_data(payload: bytes) -> bytes:
    """The job's `data` field: function, instance, arguments and keyword arguments, as JSON; compressed where long."""
    call = _HEAD + to_json(payload.decode()) + _TAIL
    return call if len(call) < _LONG else zlib.compress(call, _FAST)


def payload_of(data: bytes) -> bytes:
    """The message in a job's `data`; the data itself where it holds none, so that the receiver can bury it."""
    raw = data if data.startswith(b"[") else _decompressed(data)
    try:
        _function, _instance, arguments, _keywords = from_json(raw)
        return str(arguments[0]).encode()
    except (ValueError, TypeError, LookupError):
        return raw


def _decompressed(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data
