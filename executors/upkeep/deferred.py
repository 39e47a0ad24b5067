"""Deferred: messages whose time has come are published."""

from __future__ import annotations

from pipeline.runtime.republication import publish_due
from pipeline.runtime.spec import Context
from pipeline.transport.port import open_transport
from schemas.messages import Message

MOST = 10_000


def run(context: Context) -> list[Message]:
    """Publish what is due."""
    transport = open_transport(context.settings.resolved_broker_url(), f"{context.instance}-deferred")
    try:
        publish_due(context.database, transport, MOST)
    finally:
        transport.close()
    return []
