"""Publishing again what is stored: deferred messages that are due, and dead letters that an operator brings back."""

from __future__ import annotations

from collections.abc import Sequence

from structlog import get_logger

from pipeline.errors import BadInput
from pipeline.runtime.execution import reader
from pipeline.runtime.spec import find_consumer
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.messages import Deferred, due, forget, requeue
from pipeline.transport.port import Transport
from schemas.messages import Message

_LIMIT = 1_000

_log = get_logger("runtime")


def read_message(queue: str, payload: bytes) -> Message:
    """A stored message, by the catalogue of its queue's consumer. Raises ValueError."""
    try:
        spec = find_consumer(queue)
    except BadInput as error:
        raise ValueError(str(error)) from error
    return reader(spec)(payload)


def publish_due(database: Database, transport: Transport, limit: int = _LIMIT) -> int:
    """Publish deferred messages that are due, at most `limit`; how many.

    They are claimed, published and deleted, so any number of processes may do this at once and one that
    dies half way loses nothing. Raises BrokerUnavailable and DatabaseUnavailable.
    """
    claimed = database.transact(lambda tx: due(tx, limit))
    messages = {row.id: message for row in claimed if (message := _readable(row)) is not None}
    if messages:
        transport.publish(list(messages.values()))
        database.transact(lambda tx: forget(tx, list(messages)))
    return len(messages)


def requeue_dead(settings: Settings, database: Database, transport: Transport, letter_ids: Sequence[int]) -> int:
    """Bring dead letters back and publish them; how many. Should publishing fail, upkeep does it a minute later.

    Raises NotFound and BadInput (nothing is changed then), BrokerUnavailable and DatabaseUnavailable.
    """
    released = database.transact(lambda tx: requeue(tx, letter_ids, read_message, wake_after=settings.wake_after))
    transport.publish([letter.message for letter in released])
    database.transact(lambda tx: forget(tx, [letter.deferred_id for letter in released]))
    return len(released)


def _readable(row: Deferred) -> Message | None:
    """A message whose consumer is not installed here (any more) stays claimed, and is tried again later."""
    try:
        return read_message(row.queue, row.payload.encode())
    except ValueError as error:
        _log.warning("deferred_message_unreadable", deferred_id=row.id, queue=row.queue, error=str(error))
        return None
