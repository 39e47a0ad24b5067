"""Metrics: what has happened since the last tick is counted, what there is now is measured."""

from __future__ import annotations

import time
from functools import partial

from structlog import get_logger

from pipeline.runtime.spec import Context, declared_queues
from pipeline.store import event_counts, marks, measures, pilot_counts
from schemas.messages import Message

PATIENCE = 5.0
"""Seconds after which the rest of a long history is left to the next tick."""

_log = get_logger("upkeep")


def count(context: Context) -> list[Message]:
    """Count and measure; nobody needs a message."""
    database = context.database
    until = time.monotonic() + PATIENCE
    try:
        while database.transact(event_counts.count) and time.monotonic() < until:
            pass
        database.transact(pilot_counts.count_ended)
    except marks.Held as error:
        _log.info("counting_waits", reason=str(error))
    timeout = context.settings.heartbeat_timeout
    database.transact(partial(measures.measure, queues=declared_queues(), heartbeat_timeout=timeout))
    return []
