"""pika by hand, in one thread: confirms of a whole round awaited together, acknowledgements in multiples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pika import BasicProperties, DeliveryMode, SelectConnection, URLParameters

from schemas.messages import Message

_PROPERTIES = BasicProperties(content_type="application/json", delivery_mode=DeliveryMode.Persistent)


class BareAmqp:
    """One connection and channel, on a queue that is there."""

    def __init__(self, url: str, queue: str) -> None:
        self._queue = queue
        self._published = 0
        self._unconfirmed: dict[int, None] = {}
        self._received: list[bytes] = []
        self._wanted = 0
        self._batch = 1
        self._connection = SelectConnection(URLParameters(url), on_open_callback=self._stop)
        self._loop = self._connection.ioloop
        self._loop.start()
        self._channel = self._connection.channel(on_open_callback=self._stop)
        self._loop.start()
        self._channel.confirm_delivery(self._confirm, callback=self._stop)
        self._loop.start()

    def publish(self, messages: Sequence[Message]) -> None:
        """Returns when all are confirmed."""
        for message in messages:
            self._channel.basic_publish("", self._queue, message.encode(), _PROPERTIES, mandatory=True)
            self._published += 1
            self._unconfirmed[self._published] = None
        self._loop.start()

    def drain(self, number: int, most: int) -> None:
        """Take so many, with a window of two batches, and acknowledge each batch as one."""
        self._wanted, self._batch = number, most
        self._channel.basic_qos(prefetch_count=2 * most)
        tag = self._channel.basic_consume(self._queue, self._take)
        self._loop.start()
        self._channel.basic_cancel(tag, callback=self._stop)
        self._loop.start()

    def close(self) -> None:
        """Disconnect."""
        self._connection.add_on_close_callback(self._stop)
        self._connection.close()
        self._loop.start()

    def _stop(self, *_: object) -> None:
        self._loop.stop()

    def _confirm(self, frame: Any) -> None:
        last = frame.method.delivery_tag
        if frame.method.multiple:
            while self._unconfirmed and (first := next(iter(self._unconfirmed))) <= last:
                del self._unconfirmed[first]
        else:
            del self._unconfirmed[last]
        if not self._unconfirmed:
            self._loop.stop()

    def _take(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        self._received.append(body)
        self._wanted -= 1
        if len(self._received) == self._batch or not self._wanted:
            channel.basic_ack(method.delivery_tag, multiple=True)
            self._received.clear()
        if not self._wanted:
            self._loop.stop()
