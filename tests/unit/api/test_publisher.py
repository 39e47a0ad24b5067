"""Publishing from the API, with a broker that comes and goes."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from pipeline.api.publisher import Publisher
from pipeline.errors import BrokerUnavailable
from pipeline.transport.memory import MemoryBroker, memory_broker
from schemas.messages import JobsReceived, Message, about_ids

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def messages() -> list[Message]:
    return about_ids(JobsReceived, [1, 2], now=NOW)


@pytest.fixture
def broker() -> MemoryBroker:
    return memory_broker(uuid4().hex)


def test_messages_reach_their_queue(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api")
    publisher.publish(messages())
    assert publisher.depth(["optimisation"])["optimisation"].ready == 1
    publisher.close()
    publisher.close()


def test_an_outage_is_logged_once_and_its_end_too(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api", pause=0.0)
    broker.stop()
    with capture_logs() as logs:
        for _ in range(3):
            publisher.publish(messages())
        broker.start()
        for _ in range(2):
            publisher.publish(messages())
    assert [entry["event"] for entry in logs] == ["broker_lost", "broker_found"]
    assert publisher.depth(["optimisation"])["optimisation"].ready == 2


def test_a_lost_broker_is_left_alone_for_a_while(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api", pause=3600.0)
    broker.stop()
    publisher.publish(messages())
    broker.start()
    publisher.publish(messages())
    assert publisher.depth(["optimisation"])["optimisation"].ready == 0


def test_depth_says_that_the_broker_is_down(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api")
    broker.stop()
    with pytest.raises(BrokerUnavailable):
        publisher.depth(["optimisation"])
