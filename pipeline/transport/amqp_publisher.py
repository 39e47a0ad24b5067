"""Publishing: many messages at once, one wait for all of their confirms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from pika import BasicProperties, DeliveryMode
from pika.channel import Channel
from pika.spec import Basic

from pipeline.transport.amqp_channel import AmqpChannel, Answer, Queues
from pipeline.transport.amqp_connection import AmqpConnection
from pipeline.transport.amqp_errors import NotTaken

Addressed = tuple[str, bytes]
"""A queue, and what goes there."""

_PROPERTIES = BasicProperties(content_type="application/json", delivery_mode=DeliveryMode.Persistent)


class Publisher:
    """A channel in confirm mode. What starts with an underscore after `publish` runs in the connection's thread."""

    def __init__(self, connection: AmqpConnection, queues: Queues) -> None:
        self._connection = connection
        self._queues = queues
        self._number = 0
        """What the broker calls the last message of this channel."""
        self._unconfirmed: dict[int, None] = {}
        self._refused = 0
        self._returned: list[Addressed] = []
        self._answer: Answer | None = None
        self._channel = AmqpChannel(connection)
        self._channel.ask(self._prepare)

    @property
    def is_closed(self) -> bool:
        """Whether another one is needed."""
        return self._channel.is_closed

    def publish(self, messages: Sequence[Addressed]) -> None:
        """Return when all are confirmed. Raises the driver's errors."""
        self._publish(messages)
        if self._returned:
            # Somebody has deleted their queue since it was declared.
            again = self._returned
            for queue, _ in again:
                self._queues.forget(queue)
            self._publish(again)
        if self._returned:
            raise NotTaken(f"it has no queue {self._returned[0][0]!r} although it was just declared")

    def _publish(self, messages: Sequence[Addressed]) -> None:
        for queue in dict.fromkeys(queue for queue, _ in messages):
            self._queues.declare(queue)
        self._connection.wait_until_flowing()
        self._channel.ask(
            lambda driver, answer: self._write(driver, messages, answer), progress=lambda: len(self._unconfirmed)
        )
        if self._refused:
            raise NotTaken(f"it refused {self._refused} of {len(messages)} messages")

    def _prepare(self, driver: Channel, answer: Answer) -> None:
        driver.add_on_return_callback(self._take_back)
        driver.confirm_delivery(self._settle, callback=answer)

    def _write(self, driver: Channel, messages: Sequence[Addressed], answer: Answer) -> None:
        # What an earlier call gave up may be confirmed yet: its numbers are known to nobody any more.
        self._unconfirmed, self._returned, self._refused, self._answer = {}, [], 0, answer
        publish = driver.basic_publish
        for queue, body in messages:
            publish("", queue, body, _PROPERTIES, mandatory=True)
            self._number += 1
            self._unconfirmed[self._number] = None

    def _take_back(self, _driver: Channel, method: Basic.Return, _properties: BasicProperties, body: bytes) -> None:
        self._returned.append((method.routing_key, body))

    def _settle(self, frame: Any) -> None:
        """The broker has confirmed or refused a message, or all up to it."""
        last: int = frame.method.delivery_tag
        if frame.method.multiple:
            settled = list(takewhile(lambda number: number <= last, self._unconfirmed))
        else:
            settled = [last] if last in self._unconfirmed else []
        for number in settled:
            del self._unconfirmed[number]
        if isinstance(frame.method, Basic.Nack):
            self._refused += len(settled)
        if not self._unconfirmed and self._answer is not None:
            answer, self._answer = self._answer, None
            answer(None)
