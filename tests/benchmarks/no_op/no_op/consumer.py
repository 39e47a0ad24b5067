"""Ours: a consumer that does nothing, and one that commits a row for each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sqlalchemy import Column, Integer, MetaData, String, Table

from pipeline.runtime.spec import ConsumerSpec, Context
from schemas.messages import Ids, IdsBody, Message
from schemas.outcomes import Done, Outcome

BATCH = 500
"""Messages per round."""

batches = Table(
    "no_op_batches",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("instance", String(100), nullable=False),
    Column("messages", Integer, nullable=False),
)


class NoOp(IdsBody):
    """Nothing is to be done about these."""

    queue: ClassVar[str] = "no-op"
    job_ids: Ids


class Commit(IdsBody):
    """Nothing either, but that their number is to be stored."""

    queue: ClassVar[str] = "commit"
    job_ids: Ids


def pass_over(_context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """Every message is done."""
    return [Done() for _ in messages]


def commit(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """One row, one transaction."""
    context.database.transact(lambda tx: tx.add(batches, instance=context.instance, messages=len(messages)))
    return [Done() for _ in messages]


NO_OP = ConsumerSpec(queue="no-op", bodies=(NoOp,), execute=pass_over, batch=BATCH)
COMMIT = ConsumerSpec(queue="commit", bodies=(Commit,), execute=commit, batch=BATCH)
