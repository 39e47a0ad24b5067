"""One message as one RQ job: the hash that RQ writes and reads, with RQ's JSON serializer.

Written by hand rather than through `rq.job.Job`, which costs several times more per message. The
conformance suite reads it back with RQ's own `Job.fetch`.
"""

from __future__ import annotations

import json
import zlib

from schemas.messages import Message

FUNCTION = "pipeline.rq_round.execute_message"
"""What a stock RQ worker calls, with the message as JSON text."""

TIMEOUT = 180
"""Seconds that a stock RQ worker gives a message."""
FAILURE_TTL = 86_400
"""Seconds that RQ keeps a message that failed in a stock worker."""

_FAST = 1


def job_id(message: Message) -> str:
    """RQ's id of this attempt at the message."""
    return f"{message.id}-{message.attempt}"


def job_description(message: Message) -> str:
    """What `rq info` and rq-dashboard show of it."""
    return f"{message.type} attempt {message.attempt}"


def job_data(payload: bytes) -> bytes:
    """The job's `data` field: function, instance, arguments and keyword arguments, serialized and compressed."""
    call = json.dumps([FUNCTION, None, [payload.decode()], {}])
    return zlib.compress(call.encode(), _FAST)


def payload_of(data: bytes) -> bytes:
    """The message in a job's `data`; the data itself where it holds none, so that the receiver can bury it."""
    try:
        raw = zlib.decompress(data)
    except zlib.error:
        raw = data
    try:
        _function, _instance, arguments, _keywords = json.loads(raw)
        return str(arguments[0]).encode()
    except (ValueError, TypeError, LookupError):
        return raw
