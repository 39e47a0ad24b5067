"""Running one group of payloads through an executor, wherever that happens: a pool's worker or a stock RQ worker."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any

from structlog.contextvars import bound_contextvars

from pipeline.errors import (
    ApiUnavailable,
    BatchSystemUnavailable,
    BrokerUnavailable,
    DatabaseUnavailable,
    StorageUnavailable,
)
from pipeline.log_fields import FIRST
from pipeline.runtime.rounds import Failure, Group, Unreadable
from pipeline.runtime.spec import ConsumerSpec, Context
from pipeline.tally import Counted
from schemas.messages import Message, decode
from schemas.outcomes import Done, Outcome, Retry

OUTSIDE = (ApiUnavailable, BatchSystemUnavailable, BrokerUnavailable, DatabaseUnavailable, StorageUnavailable)
"""An executor that lets one of these through says that something outside is down: no message is to blame."""

_DONE = Done()
"""All that are done without follow-ups are this one: a report of them pickles in a tenth of the time."""
_TRACE = len("00-") + 32
"""Characters of a traceparent with which the trace's id ends."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a group: a result for each payload, or why there is none; and the oldest message's creation."""

    results: tuple[Outcome | Unreadable, ...] | Failure
    oldest: datetime | None = None
    memory: int = 0
    """Resident size of the process afterwards, MiB."""
    retries: int = 0
    """Transactions that were run again meanwhile."""
    counted: tuple[Counted, ...] = ()
    """What the executor counted."""
    waited: float = 0.0
    """Seconds of it that went into transactions which failed: on average, where several threads asked."""

    @property
    def own_share(self) -> float:
        """The share of the payloads that were dealt with, and do not wait for something outside that is down; 0 for a
        run that failed."""
        if isinstance(self.results, Failure) or not self.results:
            return 0.0
        outside = sum(isinstance(result, Retry) and result.outside for result in self.results)
        return 1 - outside / len(self.results)


def reader(spec: ConsumerSpec) -> Callable[[bytes], Message]:
    """Reads payloads of the spec's queue; raises ValueError."""
    catalogue = spec.catalogue()
    return lambda payload: decode(payload, catalogue)


def execute_group(spec: ConsumerSpec, context: Context, memory_limit: int, group: Group) -> Report:
    """Decode, execute, and say what came of it. Raises nothing: every failure is in the report."""
    read = reader(spec)
    entries = [_read_or_say(read, payload) for payload in group]
    messages = [entry for entry in entries if isinstance(entry, Message)]
    oldest = min((message.created_at for message in messages), default=None)
    try:
        with bound_contextvars(**ids_of(messages)):
            outcomes = list(spec.execute(context, messages)) if messages else []
        _check(outcomes, messages)
    except OUTSIDE as error:
        outcomes = [Retry(f"{type(error).__name__}: {error}", outside=True) for _ in messages]
    except MemoryError:
        reason = f"memory limit of {memory_limit} MiB reached"
        return Report(Failure(reason, "memory", traceback.format_exc()), oldest)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever an executor raises is its batch's failure
        return Report(Failure(repr(error), "raised", traceback.format_exc()), oldest)
    following = (_DONE if outcome == _DONE else outcome for outcome in outcomes)
    return Report(tuple(next(following) if isinstance(entry, Message) else entry for entry in entries), oldest)


def ids_of(messages: Iterable[Message]) -> dict[str, Any]:
    """What ties a line of the log to messages that were dealt with together: the ids of the first ten, and the trace
    if it is one and the same. No more of them are looked at than that takes."""
    following = iter(messages)
    first = list(islice(following, FIRST))
    if not first:
        return {}
    ids = [str(message.id) for message in first]
    found: dict[str, Any] = {"message_id": ids[0]} if len(ids) == 1 else {"message_ids": ids}
    trace = first[0].trace
    if trace is not None and all(_alike(trace, message.trace) for message in chain(first, following)):
        found["trace"] = trace
    return found


def _alike(trace: str, other: str | None) -> bool:
    """Whether two traceparents are of one trace, whatever the callers' spans."""
    return other == trace or (other is not None and other[:_TRACE] == trace[:_TRACE])


def _read_or_say(read: Callable[[bytes], Message], payload: bytes) -> Message | Unreadable:
    try:
        return read(payload)
    except ValueError as error:
        return Unreadable(f"unreadable: {error}")


def _check(outcomes: Sequence[Outcome], messages: Sequence[Message]) -> None:
    if len(outcomes) != len(messages):
        raise ValueError(f"the executor gave {len(outcomes)} outcomes for {len(messages)} messages; one each is wanted")
