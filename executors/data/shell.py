"""The data executor: a batch goes to its message types' shells, the ids of all messages of a type together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from executors.data.files_due import compare
from executors.data.outputs import verify
from executors.data.steps_due import settle
from pipeline.runtime.spec import Context
from pipeline.store.database import in_chunks
from schemas.messages import Body, FilesDue, Message, OutputsReported, StepsDue
from schemas.outcomes import Done, Outcome


def execute(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """One outcome per message; the follow-ups of the whole batch go with its last one."""
    follow_ups: list[Message] = []
    for job_ids in in_chunks(_ids(messages, OutputsReported)):  # a transaction each: none shall live for seconds
        follow_ups += verify(context, job_ids)
    if step_ids := _ids(messages, StepsDue):
        follow_ups += settle(context, step_ids)
    if file_ids := _ids(messages, FilesDue):
        compare(context, file_ids)
    return [*(Done() for _ in messages[1:]), Done(tuple(follow_ups))]


def _ids(messages: Iterable[Message], body: type[Body]) -> list[int]:
    return sorted({i for message in messages if isinstance(message.body, body) for i in message.body.ids()})
