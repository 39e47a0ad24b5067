"""Each transport alone beside the bare client: publish and confirm, receive and acknowledge, in one process.

Both sides encode the same messages inside of the measurement and decode none; both leave the same on the server.
Rounds of 1,000 are published, batches of 500 received. The sides take turns; a figure is the median.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Protocol

from pipeline.transport.port import Transport, open_transport
from schemas.messages import Message
from tests.activemq import running_activemq
from tests.benchmarks.bare_amqp import BareAmqp
from tests.benchmarks.bare_redis import BareRedis, PlainList
from tests.benchmarks.bare_stomp import BareStomp
from tests.benchmarks.contestants import no_ops
from tests.benchmarks.figures import Figure
from tests.benchmarks.no_op.no_op.consumer import NoOp
from tests.rabbitmq import RabbitMqServer
from tests.servers import RedisServer

MESSAGES = 10_000
ROUND = 1_000
BATCH = 500
ROUNDS = 3
SHARE = 0.6
"""Of the bare client's rate, what is expected of ours."""
_WAIT = 10.0


class Side(Protocol):
    """Who publishes and drains."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Returns when all are confirmed."""

    def drain(self, number: int, most: int) -> None:
        """Receive and acknowledge so many, in batches of up to `most`."""

    def close(self) -> None:
        """Disconnect."""


class Ours:
    """The transport of a URL."""

    def __init__(self, url: str, queue: str) -> None:
        self._queue = queue
        self._transport: Transport = open_transport(url, "bench")

    def publish(self, messages: Sequence[Message]) -> None:
        """See `Side`."""
        self._transport.publish(messages)

    def drain(self, number: int, most: int) -> None:
        """See `Side`."""
        while number > 0:
            deliveries = self._transport.receive(self._queue, most, _WAIT)
            assert deliveries, f"{number} messages did not come within {_WAIT:g} s"
            self._transport.acknowledge(deliveries)
            number -= len(deliveries)

    def close(self) -> None:
        """See `Side`."""
        self._transport.close()


Sides = dict[str, Callable[[], Side]]


def on_redis(server: RedisServer) -> list[Figure]:
    """Redis, and the plainest queue on it for comparison."""
    sides: Sides = {
        "Penstock": partial(Ours, server.url, NoOp.queue),
        "redis-py": partial(BareRedis, server.url, NoOp.queue),
        "redis-py, a plain list without acknowledgement": partial(PlainList, server.url, NoOp.queue),
    }
    return _compared("Redis", sides)


def on_rabbitmq(server: RabbitMqServer) -> list[Figure]:
    """AMQP, on a quorum queue that our transport makes; STOMP, on a durable classic one."""
    amqp: Sides = {
        "Penstock": partial(Ours, server.amqp_url, NoOp.queue),
        "pika": partial(BareAmqp, server.amqp_url, NoOp.queue),
    }
    stomp: Sides = {
        "Penstock": partial(Ours, server.stomp_url, NoOp.queue),
        "stomp.py": partial(BareStomp, server.stomp_url, NoOp.queue, in_transactions=False),
    }
    server.delete_queues()
    figures = _compared("RabbitMQ by AMQP", amqp)
    server.delete_queues()
    return figures + _compared("RabbitMQ by STOMP", stomp)


def on_activemq() -> list[Figure]:
    """A server of its own."""
    with running_activemq() as server:
        sides: Sides = {
            "Penstock": partial(Ours, server.url, NoOp.queue),
            "stomp.py": partial(BareStomp, server.url, NoOp.queue, in_transactions=True),
        }
        return _compared("ActiveMQ by STOMP", sides)


def _compared(broker: str, sides: Sides) -> list[Figure]:
    """Both rates of each side, then ours over the second one's."""
    published: dict[str, list[float]] = {name: [] for name in sides}
    drained: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, opened in sides.items():
            side = opened()
            published[name].append(MESSAGES / _publish(side))
            drained[name].append(MESSAGES / _seconds(partial(side.drain, MESSAGES, BATCH)))
            side.close()
    _, bare, *_ = sides
    figures = []
    for doing, rates in {"publish + confirm": published, "receive + acknowledge": drained}.items():
        measure = f"{doing}, {broker}"
        medians = {name: median(values) for name, values in rates.items()}
        figures += [Figure(measure, name, value, "messages/s") for name, value in medians.items()]
        share = medians["Penstock"] / medians[bare]
        figures.append(Figure(measure, f"Penstock / {bare}", share, "x", expected=SHARE))
    return figures


def _publish(side: Side) -> float:
    rounds = [no_ops(NoOp, ROUND) for _ in range(MESSAGES // ROUND)]
    return sum(_seconds(partial(side.publish, part)) for part in rounds)


def _seconds(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
