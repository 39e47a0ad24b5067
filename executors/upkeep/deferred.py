"""Deferred: messages whose time has come are published."""

from __future__ import annotations

from pipeline.runtime.spec import Context, find_consumer
from pipeline.store import messages as message_store
from pipeline.transport.port import open_transport
from schemas.messages import Message, decode

MOST = 10_000


def run(context: Context) -> list[Message]:
    """Publish what is due, then forget it: a crash between the two publishes it once more, which is harmless."""
    due = context.database.transact(lambda tx: message_store.due(tx, MOST))
    if not due:
        return []
    bodies = {queue: find_consumer(queue).catalogue() for queue in {deferred.queue for deferred in due}}
    transport = open_transport(context.settings.resolved_broker_url(), f"{context.instance}-deferred")
    try:
        transport.publish([decode(deferred.payload, bodies[deferred.queue]) for deferred in due])
    finally:
        transport.close()
    context.database.transact(lambda tx: message_store.forget(tx, [deferred.id for deferred in due]))
    return []
