"""Publishing from the API, with a broker that comes and goes."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from pipeline.api.publisher import DEPTH_PATIENCE, PATIENCE, Publisher
from pipeline.errors import BrokerUnavailable
from pipeline.transport import memory
from pipeline.transport.memory import MemoryBroker, memory_broker
from schemas.messages import JobsReceived, Message, about_ids
from schemas.outcomes import Backoff
from tests.waiting import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = Backoff(base=1e-6, cap=1e-6)


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
    publisher = Publisher(f"memory://{broker.name}", "api", AT_ONCE)
    broker.stop()
    with capture_logs() as logs:
        for _ in range(3):
            publisher.publish(messages())
        broker.start()
        for _ in range(2):
            publisher.publish(messages())
    assert [entry["event"] for entry in logs] == ["broker_lost", "broker_back"]
    assert publisher.depth(["optimisation"])["optimisation"].ready == 3, (
        "the first of those that failed, and the last two"
    )


def test_a_lost_broker_is_left_alone_for_a_while(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api", Backoff(base=3600.0, cap=3600.0))
    broker.stop()
    publisher.publish(messages())
    broker.start()
    publisher.publish(messages())
    with pytest.raises(BrokerUnavailable):
        publisher.depth(["optimisation"])
    assert memory.open_transport(f"memory://{broker.name}", "test").depth(["optimisation"])["optimisation"].ready == 0


def test_an_outage_ends_without_a_request(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api")
    broker.stop()
    publisher.publish(messages())
    assert publisher.away
    broker.start()
    eventually(lambda: not publisher.away)
    publisher.close()


def test_nobody_waits_for_a_frozen_broker_and_what_was_published_meanwhile_arrives(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api")
    publisher.publish(messages())
    with broker.changed:  # whoever calls it now waits
        begun = time.monotonic()
        for _ in range(20):
            publisher.publish(messages())
        assert time.monotonic() - begun < 2 * PATIENCE, "the first one alone waited"
        assert publisher.away
        eventually(lambda: _refused(publisher), within=2 * DEPTH_PATIENCE)
    seen = memory.open_transport(f"memory://{broker.name}", "test")
    eventually(lambda: seen.depth(["optimisation"])["optimisation"].ready == 21)
    publisher.close()


def test_a_publisher_closes_at_once_while_the_broker_is_frozen(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api")
    with broker.changed:
        publisher.publish(messages())
        begun = time.monotonic()
        publisher.close()
        assert time.monotonic() - begun < 1.0


def _refused(publisher: Publisher) -> bool:
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        publisher.depth(["optimisation"])
    return time.monotonic() - begun < 0.5


def test_depth_says_that_the_broker_is_down(broker: MemoryBroker) -> None:
    publisher = Publisher(f"memory://{broker.name}", "api")
    broker.stop()
    with pytest.raises(BrokerUnavailable):
        publisher.depth(["optimisation"])
