"""A broker that takes no messages and answers everything else: one outage, said once, over when it takes them again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from redis import Redis
from structlog.testing import capture_logs

from pipeline.api.broker_thread import LOOK_AGAIN
from pipeline.api.publisher import Publisher
from pipeline.errors import BrokerUnavailable
from schemas.messages import JobsReceived, Message
from schemas.outcomes import Backoff
from tests.servers import RedisServer, running_redis
from tests.waiting import eventually

AT_ONCE = Backoff(base=0.01, cap=0.01)


@pytest.fixture
def broker() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def publisher(broker: RedisServer) -> Iterator[Publisher]:
    opened = Publisher(broker.url, "api", AT_ONCE)
    yield opened
    opened.close()


def _limit_memory(broker: RedisServer, size: int) -> None:
    """Bytes; 0: as much as it likes."""
    with Redis.from_url(broker.url) as redis:
        redis.config_set("maxmemory", size)


def _ready(publisher: Publisher) -> int | None:
    """How many messages wait; None in the moments in which the broker is left alone."""
    try:
        return publisher.depth(["optimisation"])["optimisation"].ready
    except BrokerUnavailable:
        return None


def _message(job_id: int) -> Message:
    return Message.about(JobsReceived(job_ids=(job_id,)), now=datetime.now(UTC))


def test_the_api_says_once_that_a_full_broker_takes_nothing(broker: RedisServer, publisher: Publisher) -> None:
    publisher.publish([_message(1)])
    _limit_memory(broker, 1)
    with capture_logs() as logs:
        for job_id in (2, 3, 4):
            publisher.publish([_message(job_id)])
            eventually(lambda: _ready(publisher) == 1)
        assert publisher.away
        _limit_memory(broker, 0)
        eventually(lambda: not publisher.away, within=10 * LOOK_AGAIN)
    assert [entry["event"] for entry in logs] == ["broker_lost", "broker_back"]
    assert _ready(publisher) == 2, "what failed first was tried until it was taken"
