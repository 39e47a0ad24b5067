"""A delivery is settled before RabbitMQ takes it away, however much there would be left to do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from pipeline.runtime.rounds import Failure, Round
from pipeline.runtime.settlement import HOLD_LIMIT, Batch
from pipeline.runtime.spec import find_consumer
from pipeline.runtime.verdicts import Policy, judge
from pipeline.settings import LONGEST_DEADLINE, Settings
from pipeline.settings_file import load_settings
from schemas.messages import JobsReceived, Message, decode
from schemas.outcomes import Backoff, Retry

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RABBITMQ_TAKES_AWAY_AFTER = 1_800.0
"""Seconds: `consumer_timeout` as the server has it by itself."""


def read(payload: bytes) -> Message:
    return decode(payload, {"JobsReceived": JobsReceived})


def batch_of(*payloads: bytes, received: float) -> Batch:
    return Batch((), Round(payloads, read), received=received)


def payload(*ids: int) -> bytes:
    return Message.about(JobsReceived(job_ids=ids), now=NOW).encode()


def settled_at(batch: Batch, start: float) -> float:
    """When a batch ends whose every run takes the longest deadline and fails, begun at `start`."""
    now = start
    while batch.next(now) is not None:
        now += LONGEST_DEADLINE
        batch.round.failed(Failure("deadline passed", "deadline"))
    return now


def test_two_batches_in_a_row_that_only_time_out_are_settled_in_time() -> None:
    running = batch_of(*(payload(n) for n in range(1, 51)), received=0.0)
    first = settled_at(running, start=0.0)
    waiting = batch_of(*(payload(n) for n in range(1, 51)), received=0.0)
    assert settled_at(waiting, start=first) == first, "it was received as early, and nothing of it is begun"
    fetched_ahead = batch_of(*(payload(n) for n in range(1, 51)), received=first)
    assert settled_at(fetched_ahead, start=first) < RABBITMQ_TAKES_AWAY_AFTER - 60


def test_what_was_not_begun_in_time_comes_again_without_an_attempt() -> None:
    batch = batch_of(payload(1), payload(2, 3), received=100.0)
    assert batch.next(100.0 + HOLD_LIMIT) is not None
    batch.round.failed(Failure("crashed", "crashed"))
    assert batch.next(101.0 + HOLD_LIMIT) is None
    assert [type(result) for _payload, result in batch.results] == [Retry, Retry]
    policy = Policy("optimisation", 5, 86_400.0, Backoff())
    verdicts = judge(batch.results, policy, read, now=NOW, chance=lambda: 0.5)
    assert [deferral.message.attempt for deferral in verdicts.deferrals] == [1, 1]
    assert [deferral.message.body.ids() for deferral in verdicts.deferrals] == [(1,), (2, 3)]


def test_a_deadline_that_would_hold_a_delivery_too_long_is_refused() -> None:
    with pytest.raises(ValidationError, match="executor_deadline"):
        Settings(executor_deadline=LONGEST_DEADLINE + 1)
    assert find_consumer("pilots").deadline <= LONGEST_DEADLINE
    assert load_settings().executor_deadline is None
