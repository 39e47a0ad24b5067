"""The last jobs of a step go before all others of their owner: its campaign waits for them."""

from __future__ import annotations

from functools import partial

from structlog import get_logger

from pipeline.runtime.spec import Context
from pipeline.store import tails
from schemas.messages import Message

_log = get_logger("upkeep")


def boost(context: Context) -> list[Message]:
    """Boost the waiting jobs of every step that is down to its tail; nobody needs a message."""
    for step_id in context.database.read(tails.late_steps):
        boosted = context.database.transact(partial(tails.boost, step_id=step_id))
        _log.info("tail_boosted", step_id=step_id, jobs=boosted)
    return []
