"""Kinds of nodes: what pilots found theirs to be like, kept once for all that are alike."""

from __future__ import annotations

from sqlalchemy import select

from pipeline.store.database import Transaction
from pipeline.store.tables import resources
from schemas.nodes import NodeKind


def keep(tx: Transaction, kind: NodeKind) -> int:
    """The id of a kind of nodes, which is stored if it is new."""
    signature = kind.signature()
    query = select(resources.c.id).where(resources.c.signature == signature)
    found = tx.scalar(query)
    if found is None:
        row = {"signature": signature, "body": kind.body(), "containers": ",".join(kind.containers) or None}
        tx.add_missing(resources, [row])
        found = tx.scalar(query)
    return int(found)
