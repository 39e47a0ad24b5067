"""The brokers under the checker: how each is started, reached through the proxy, and hurt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.activemq import ActiveMqServer, running_activemq
from tests.chaos.nemesis import INSTANT, Kind, Kinds
from tests.rabbitmq import RabbitMqServer, running_rabbitmq
from tests.servers import RedisServer, Server, server_folder

LONG: Kinds = {
    Kind.KILL: INSTANT,
    Kind.CUT: INSTANT,
    Kind.PAUSE: (1.0, 5.0),
    Kind.FREEZE: (11.0, 15.0),
    Kind.RESTART: INSTANT,
    Kind.CRASH: INSTANT,
}
SHORT: Kinds = {Kind.KILL: INSTANT, Kind.CUT: INSTANT, Kind.PAUSE: (1.0, 1.0)}
SHORT_WITH_RESTARTS: Kinds = {**SHORT, Kind.RESTART: INSTANT, Kind.CRASH: INSTANT}
"""For a server that is back within a second."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running broker that keeps what it has confirmed, whatever happens to it."""

    name: str
    server: Server
    port: int
    """Where it listens; the proxy stands before it."""
    url: Callable[[int], str]
    """Its URL, by way of the port of the proxy."""


class DurableRedis(RedisServer):
    """A Redis that answers when what it was told is on the disk, and not a second earlier."""

    def command(self) -> list[str]:
        return [*super().command(), "--appendfsync", "always"]


def redis_target(server: DurableRedis, *, takeover: float | None = None) -> Target:
    """A Redis; consumers that are silent for `takeover` seconds are dead (default: the transport's)."""
    option = "" if takeover is None else f"?takeover={takeover}"
    return Target("redis", server, server.port, lambda port: f"redis://127.0.0.1:{port}/0{option}")


def rabbitmq_amqp_target(server: RabbitMqServer) -> Target:
    """A RabbitMQ by AMQP, in a vhost of its own."""
    vhost = server.new_vhost()
    login = "guest:guest@127.0.0.1"
    return Target("rabbitmq-amqp", server, server.port, lambda port: f"amqp://{login}:{port}/{vhost}")


def rabbitmq_stomp_target(server: RabbitMqServer) -> Target:
    """A RabbitMQ by STOMP, in a vhost of its own."""
    vhost = server.new_vhost()
    login = "guest:guest@127.0.0.1"
    return Target("rabbitmq-stomp", server, server.stomp_port, lambda port: f"stomp://{login}:{port}/{vhost}")


def activemq_target(server: ActiveMqServer) -> Target:
    """An ActiveMQ by STOMP."""
    return Target("activemq-stomp", server, server.port, lambda port: f"stomp://guest:guest@127.0.0.1:{port}")


@contextmanager
def running_durable_redis() -> Iterator[DurableRedis]:
    """A Redis for as long as the block lasts."""
    with server_folder("redis") as folder, DurableRedis(folder, durable=True) as server:
        yield server


@contextmanager
def _redis() -> Iterator[Target]:
    with running_durable_redis() as server:
        yield redis_target(server)


@contextmanager
def _rabbitmq_amqp() -> Iterator[Target]:
    with running_rabbitmq() as server:
        yield rabbitmq_amqp_target(server)


@contextmanager
def _rabbitmq_stomp() -> Iterator[Target]:
    with running_rabbitmq() as server:
        yield rabbitmq_stomp_target(server)


@contextmanager
def _activemq() -> Iterator[Target]:
    with running_activemq() as server:
        yield activemq_target(server)


BROKERS: Mapping[str, Callable[[], AbstractContextManager[Target]]] = {
    "redis": _redis,
    "rabbitmq-amqp": _rabbitmq_amqp,
    "rabbitmq-stomp": _rabbitmq_stomp,
    "activemq-stomp": _activemq,
}
"""Each starts a server of its own and ends it."""
