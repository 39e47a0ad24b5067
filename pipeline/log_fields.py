"""Every field that a line of our logs may have, with its type: the ECS ones, and our labels.

A test holds the code to the labels, and the lines of a whole campaign to both tables; `docs/how-to/logs.md` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping

Kinds = tuple[type, ...]
_TEXT: Kinds = (str,)
_WHOLE: Kinds = (int,)
_SECONDS: Kinds = (int, float)
_IDS: Kinds = (list,)

ECS: Mapping[str, Kinds] = {
    "@timestamp": _TEXT,
    "log.level": _TEXT,
    "message": _TEXT,
    "event.action": _TEXT,
    "event.outcome": _TEXT,
    "event.duration": _WHOLE,
    "service.name": _TEXT,
    "service.version": _TEXT,
    "service.node.name": _TEXT,
    "host.name": _TEXT,
    "process.pid": _WHOLE,
    "log.logger": _TEXT,
    "trace.id": _TEXT,
    "transaction.id": _TEXT,
    "error.type": _TEXT,
    "error.message": _TEXT,
    "error.stack_trace": _TEXT,
    "http.request.method": _TEXT,
    "http.response.status_code": _WHOLE,
    "url.path": _TEXT,
    "user.name": _TEXT,
    "ecs.version": _TEXT,
    "labels": (dict,),
}
"""The Elastic Common Schema's, flat. `event.duration` is nanoseconds."""

NAMED: Mapping[str, str] = {
    "timestamp": "@timestamp",
    "level": "log.level",
    "logger": "log.logger",
    "instance": "service.node.name",
    "outcome": "event.outcome",
    "error": "error.message",
    "error_type": "error.type",
    "exception": "error.stack_trace",
    "user": "user.name",
    "method": "http.request.method",
    "status": "http.response.status_code",
    "path": "url.path",
}
"""What code binds, and the field that it becomes; `duration` (seconds) and `trace` (a traceparent) are reckoned."""

LABELS: Mapping[str, Kinds] = {
    "job_id": _WHOLE,
    "job_ids": _IDS,
    "attempt": _WHOLE,
    "from_state": _TEXT,
    "to_state": _TEXT,
    "campaign_id": _WHOLE,
    "campaign": _TEXT,
    "step_id": _WHOLE,
    "pilot_id": _WHOLE,
    "tag": _TEXT,
    "tags": _IDS,
    "node": _TEXT,
    "site_id": _WHOLE,
    "site_queue": _TEXT,
    "storage": _TEXT,
    "vo_id": _WHOLE,
    "queue": _TEXT,
    "queues": _TEXT,
    "message_id": _TEXT,
    "message_ids": _IDS,
    "type": _TEXT,
    "deferred_id": _WHOLE,
    "trigger": _TEXT,
    "due": _TEXT,
    "since": _TEXT,
    "too_late": (bool,),
    "cycle": _WHOLE,
    "drain": _WHOLE,
    "kind": _TEXT,
    "target": _TEXT,
    "reason": _TEXT,
    "cause": _TEXT,
    "count": _WHOLE,
    "jobs": _WHOLE,
    "messages": _WHOLE,
    "ids": _WHOLE,
    "pilots": _WHOLE,
    "calls": _WHOLE,
    "call": _TEXT,
    "requested": _WHOLE,
    "unwanted": _WHOLE,
    "drained": _WHOLE,
    "refused": _WHOLE,
    "left": _WHOLE,
    "lost": (bool,),
    "failed": (bool,),
    "seconds": _SECONDS,
    "delay": _SECONDS,
    "ends_at": _TEXT,
    "state": _TEXT,
    "health": _TEXT,
    "url": _TEXT,
    "triggers": _WHOLE,
    "changed": _TEXT,
    "settings": _TEXT,
    "file": _TEXT,
    "key": _WHOLE,
    "command": _TEXT,
    "limit": _TEXT,
    "subject_id": _WHOLE,
    "counted": _WHOLE,
    "rightly": _WHOLE,
    "oldest": _SECONDS,
    "again_in": _SECONDS,
}
"""Ours. Seconds are seconds, ids those of rows; of ids in bulk the first ten; `count` says of how many, if the
line is about them."""

FIRST = 10
"""Ids that one line names at the most."""
