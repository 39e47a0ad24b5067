"""What comes of a group, whatever the executor does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import get_contextvars

from pipeline.errors import DatabaseUnavailable
from pipeline.runtime.execution import Report, execute_group, ids_of
from pipeline.runtime.rounds import Failure, Unreadable
from pipeline.runtime.spec import ConsumerSpec, Context
from pipeline.settings import Settings
from pipeline.store.database import Database
from schemas.messages import JobsReceived, Message
from schemas.outcomes import Done, Outcome, Retry

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
OF_ANOTHER_SPAN = f"00-{'a' * 32}-{'c' * 16}-00"
OTHER = f"00-{'d' * 32}-{'b' * 16}-01"
Run = Callable[[Callable[[Sequence[Message]], Sequence[Outcome]], tuple[bytes, ...]], Report]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    context = Context(Settings(data_dir=tmp_path), Database(f"sqlite:///{tmp_path / 'test.db'}"), "me")

    def once(execute: Callable[[Sequence[Message]], Sequence[Outcome]], group: tuple[bytes, ...]) -> Report:
        spec = ConsumerSpec("optimisation", (JobsReceived,), lambda _context, messages: execute(messages))
        return execute_group(spec, context, 64, group)

    return once


def payload(job_id: int) -> bytes:
    return Message.about(JobsReceived(job_ids=(job_id,)), now=NOW).encode()


def test_outcomes_stand_beside_the_payloads_that_could_be_read(run: Run) -> None:
    report = run(lambda messages: [Retry(str(m.body.ids()[0])) for m in messages], (payload(1), b"{", payload(2)))
    assert isinstance(report.results, tuple)
    first, garbage, second = report.results
    assert (first, second) == (Retry("1"), Retry("2"))
    assert isinstance(garbage, Unreadable)
    assert report.oldest == NOW


def test_an_exception_is_a_failure_with_its_traceback(run: Run) -> None:
    def execute(_messages: Sequence[Message]) -> Sequence[Outcome]:
        raise LookupError("nowhere")

    failure = run(execute, (payload(1),)).results
    assert isinstance(failure, Failure)
    assert failure.reason == "LookupError('nowhere')"
    assert 'raise LookupError("nowhere")' in (failure.traceback or "")


def test_memory_that_is_gone_is_said_with_the_limit(run: Run) -> None:
    def execute(_messages: Sequence[Message]) -> Sequence[Outcome]:
        raise MemoryError

    failure = run(execute, (payload(1),)).results
    assert isinstance(failure, Failure)
    assert failure.reason == "memory limit of 64 MiB reached"


def test_a_database_that_is_down_is_no_message_s_fault(run: Run) -> None:
    def execute(_messages: Sequence[Message]) -> Sequence[Outcome]:
        raise DatabaseUnavailable("gone")

    report = run(execute, (payload(1), payload(2)))
    assert report.results == (Retry("DatabaseUnavailable: gone", outside=True),) * 2


def test_too_few_outcomes_are_a_failure(run: Run) -> None:
    failure = run(lambda _messages: [Done()], (payload(1), payload(2))).results
    assert isinstance(failure, Failure)
    assert "1 outcomes for 2 messages" in failure.reason


def test_garbage_alone_does_not_reach_the_executor(run: Run) -> None:
    def execute(_messages: Sequence[Message]) -> Sequence[Outcome]:
        raise AssertionError("called for nothing")

    report = run(execute, (b"garbage",))
    assert isinstance(report.results, tuple)
    assert isinstance(report.results[0], Unreadable)


def bound(run: Run, *messages: Message) -> dict[str, Any]:
    """What an executor's lines of the log have by themselves while it executes these."""
    found: dict[str, Any] = {}

    def execute(given: Sequence[Message]) -> Sequence[Outcome]:
        found.update(get_contextvars())
        return [Done() for _ in given]

    run(execute, tuple(message.encode() for message in messages))
    assert get_contextvars() == {}
    return found


def traced(*traces: str | None) -> list[Message]:
    return [Message.about(JobsReceived(job_ids=(1,)), now=NOW, trace=trace) for trace in traces]


def test_lines_about_one_message_name_it_and_its_trace(run: Run) -> None:
    (message,) = traced(TRACE)
    assert bound(run, message) == {"message_id": str(message.id), "trace": TRACE}


def test_lines_about_many_messages_name_the_first_ten_and_the_trace_that_all_share(run: Run) -> None:
    messages = traced(TRACE, OF_ANOTHER_SPAN, *[TRACE] * 23)
    assert bound(run, *messages) == {"message_ids": [str(message.id) for message in messages[:10]], "trace": TRACE}


@pytest.mark.parametrize("odd", [None, OTHER])
@pytest.mark.parametrize("place", [0, 1, 24])
def test_a_trace_that_not_all_messages_have_is_nobodys(run: Run, odd: str | None, place: int) -> None:
    traces: list[str | None] = [TRACE] * 25
    traces[place] = odd
    assert bound(run, *traced(*traces)).keys() == {"message_ids"}


@pytest.mark.parametrize(("trace", "looked_at"), [(None, 10), (TRACE, 12)])
def test_no_more_messages_are_looked_at_than_their_ids_take(trace: str | None, looked_at: int) -> None:
    looked: list[Message] = []

    def following() -> Iterator[Message]:
        for message in traced(*[trace] * 11, *[OTHER] * 100):
            looked.append(message)
            yield message

    assert len(ids_of(following())["message_ids"]) == 10
    assert len(looked) == looked_at
