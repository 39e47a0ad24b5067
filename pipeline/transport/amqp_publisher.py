"""Publishing: many messages at once, one wait for all of their confirms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from pika import BasicProperties, DeliveryMode
from pika.channel import Channel
from pika.spec import Basic

from pipeline.transport.amqp_channel import AmqpChannel, Answer, Queues
from pipeline.transport.amqp_connection import AmqpConnection
from pipeline.transport.amqp_errors import NotTaken
from pipeline.transport.publication import Addressed

_PAUSES = (0.05, 0.15, 0.4, 0.4)
"""Seconds before what the broker did not take is offered again."""

_PROPERTIES = BasicProperties(content_type="application/json", delivery_mode=DeliveryMode.Persistent)


class Publisher:
    """A channel in confirm mode. What starts with an underscore after `publish` runs in the connection's thread."""

    def __init__(self, connection: AmqpConnection, queues: Queues) -> None:
        self._connection = connection
        self._queues = queues
        self._number = 0
        """What the broker calls the last message of this channel."""
        self._unconfirmed: dict[int, Addressed] = {}
        self._refused: list[Addressed] = []
        self._returned: list[Addressed] = []
        self._answer: Answer | None = None
        self._channel = AmqpChannel(connection)
        self._channel.ask(self._prepare)

    @property
    def is_closed(self) -> bool:
        """Whether another one is needed."""
        return self._channel.is_closed

    def publish(self, messages: Sequence[Addressed]) -> None:
        """Return when all are confirmed. Raises the driver's errors.

        A quorum queue that somebody else makes at this moment refuses what it is given, and one that somebody has
        deleted since it was declared sends it back: such messages are offered again for about a second.
        """
        left = messages
        for pause in _PAUSES:
            self._publish(left)
            left = [*self._refused, *self._returned]
            if not left:
                return
            for queue, _ in self._returned:
                self._queues.forget(queue)
            time.sleep(pause)
        self._publish(left)
        if self._refused:
            raise NotTaken(f"it refused {len(self._refused)} of {len(messages)} messages")
        if self._returned:
            raise NotTaken(f"it has no queue {self._returned[0][0]!r} although it was just declared")

    def _publish(self, messages: Sequence[Addressed]) -> None:
        for queue in dict.fromkeys(queue for queue, _ in messages):
            self._queues.declare(queue)
        self._connection.wait_until_flowing()
        self._channel.ask(
            lambda driver, answer: self._write(driver, messages, answer), progress=lambda: len(self._unconfirmed)
        )

    def _prepare(self, driver: Channel, answer: Answer) -> None:
        driver.add_on_return_callback(self._take_back)
        driver.confirm_delivery(self._settle, callback=answer)

    def _write(self, driver: Channel, messages: Sequence[Addressed], answer: Answer) -> None:
        # What an earlier call gave up may be confirmed yet: its numbers are known to nobody any more.
        self._unconfirmed, self._returned, self._refused, self._answer = {}, [], [], answer
        publish = driver.basic_publish
        for queue, body in messages:
            publish("", queue, body, _PROPERTIES, mandatory=True)
            self._number += 1
            self._unconfirmed[self._number] = (queue, body)

    def _take_back(self, _driver: Channel, method: Basic.Return, _properties: BasicProperties, body: bytes) -> None:
        self._returned.append((method.routing_key, body))

    def _settle(self, frame: Any) -> None:
        """The broker has confirmed or refused a message, or all up to it."""
        last: int = frame.method.delivery_tag
        if frame.method.multiple:
            settled = list(takewhile(lambda number: number <= last, self._unconfirmed))
        else:
            settled = [last] if last in self._unconfirmed else []
        of_broker = [self._unconfirmed.pop(number) for number in settled]
        if isinstance(frame.method, Basic.Nack):
            self._refused += of_broker
        if not self._unconfirmed and self._answer is not None:
            answer, self._answer = self._answer, None
            answer(None)
