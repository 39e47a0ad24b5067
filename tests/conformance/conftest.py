"""The broker that a test of transports gets: each in turn, or that of `--transport-url`; and transports by URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

import pytest

from pipeline.transport.port import Transport, open_transport
from tests.conformance.transport_brokers import (
    ActiveMqBroker,
    Broker,
    MemoryBroker,
    RabbitMqBroker,
    RedisBroker,
    ServerBroker,
    StoppableBroker,
    WiredBroker,
    is_wired,
    outside_broker,
)
from tests.conformance.transport_notes import Open

SERVERS = ("redis", "rabbitmq-amqp", "rabbitmq-stomp", "activemq")
FIXTURES = {
    "broker": ("memory", *SERVERS),
    "stoppable_broker": ("memory", *SERVERS),
    "wired_broker": SERVERS,
    "server_broker": SERVERS,
}
"""What a test asks for, and the brokers that have it."""

_numbers = count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every broker that can do what the test needs."""
    url: str | None = metafunc.config.getoption("--transport-url")
    for fixture in FIXTURES.keys() & set(metafunc.fixturenames):
        names = FIXTURES[fixture] if url is None else _outside(fixture, url)
        metafunc.parametrize("broker_name", names, scope="function")


def _outside(fixture: str, url: str) -> tuple[str, ...]:
    possible = {"broker"} | ({"stoppable_broker", "wired_broker"} if is_wired(url) else set())
    return (url,) if fixture in possible else ()


@pytest.fixture
def _opened(broker_name: str, request: pytest.FixtureRequest) -> Iterator[Broker]:
    with ExitStack() as stack:
        match broker_name:
            case "memory":
                yield MemoryBroker(stack)
            case "redis":
                yield RedisBroker(stack, request.getfixturevalue("redis_server"))
            case "rabbitmq-amqp":
                yield RabbitMqBroker(stack, request.getfixturevalue("rabbitmq_server"), "amqp")
            case "rabbitmq-stomp":
                yield RabbitMqBroker(stack, request.getfixturevalue("rabbitmq_server"), "stomp")
            case "activemq":
                yield ActiveMqBroker(stack, request.getfixturevalue("activemq_server"))
            case url:
                yield outside_broker(stack, url)


@pytest.fixture
def broker(_opened: Broker) -> Broker:
    """A broker."""
    return _opened


@pytest.fixture
def stoppable_broker(_opened: StoppableBroker) -> StoppableBroker:
    """One that can be taken down."""
    return _opened


@pytest.fixture
def wired_broker(_opened: WiredBroker) -> WiredBroker:
    """One whose connections can be cut."""
    return _opened


@pytest.fixture
def server_broker(_opened: ServerBroker) -> ServerBroker:
    """One whose server can be killed."""
    return _opened


@pytest.fixture
def queue() -> str:
    """The name of a queue that no other test uses."""
    return f"alone-{next(_numbers)}"


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens transports by URL, each for a consumer of its own."""
    with ExitStack() as stack:

        def open_(url: str) -> Transport:
            transport = open_transport(url, f"consumer-of-its-own-{next(_numbers)}")
            stack.callback(transport.close)
            return transport

        yield open_
