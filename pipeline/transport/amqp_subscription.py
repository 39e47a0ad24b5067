"""Receiving from one queue: consumers that fetch ahead, and acknowledgements."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

from pika import BasicProperties
from pika.channel import Channel
from pika.exceptions import AMQPError, ConsumerCancelled
from pika.spec import Basic

from pipeline.transport.address import BrokerAddress
from pipeline.transport.amqp_channel import AmqpChannel
from pipeline.transport.amqp_connection import AmqpConnection
from pipeline.transport.amqp_errors import unavailable
from pipeline.transport.inbox import Inbox
from pipeline.transport.port import Delivery

IDLE = 5.0
"""Seconds without a `receive` after which what was fetched ahead goes back to the broker."""

_LOOK = 1.0
"""Seconds between looks at whether it can go back."""
_GREATEST_WINDOW = 65_535
_MOMENT = 0.05
"""Seconds: for a shorter wait the broker is asked whether it has sent something."""


class Subscription:
    """A channel of its own, so that prefetch and acknowledgements of many are those of one queue.

    Each consumer on it may hold as many messages as a `receive` once asked for. What is received and not
    acknowledged counts against them, so there is another consumer as soon as that leaves too little room. After
    a full batch there is room for a second one, which is on its way while the first is acknowledged.
    """

    def __init__(self, connection: AmqpConnection, queue: str, address: BrokerAddress) -> None:
        self.queue = queue
        self._connection = connection
        self._address = address
        self._inbox = Inbox()
        self._lock = threading.Lock()
        self._window = 0
        self._handed: dict[int, None] = {}
        """Tags of what is received and not acknowledged, ascending."""
        self._receiving = False
        self._was_full = False
        self._asked_at = time.monotonic()
        self._given_back = False
        self._ended = False
        self._told = False
        self._channel = AmqpChannel(connection, self._end)
        self._channel.tell(self._prepare)

    @property
    def is_over(self) -> bool:
        """Whether another one is needed; one that the broker has ended first says so, once."""
        return self._given_back or self._told

    def receive(self, most: int, wait: float) -> list[Delivery] | None:
        """Up to `most`; None when all has been given back, and another subscription is needed.

        Raises BrokerUnavailable when the broker ended it, and the driver's errors.
        """
        with self._lock:
            if self._given_back:
                return None
            self._receiving = True
        try:
            taken_up = max(len(self._handed), most if self._was_full else 0)
            if self._window - taken_up < most:
                self._widen(min(most, _GREATEST_WINDOW))
            taken = self._inbox.take(self.queue, most, wait)
            if not taken and wait < _MOMENT:
                self._synchronise()
                taken = self._inbox.take(self.queue, most, 0.0)
            self._handed.update((delivery.receipt[1], None) for delivery in taken)
            self._was_full = len(taken) == most
        except AMQPError:
            if self._ended:
                self._inbox.take(self.queue, 0, 0.0)  # raises what it was told of the end
            raise
        finally:
            self._asked_at = time.monotonic()
            self._receiving = False
            self._told = self._ended
        return taken

    def acknowledge(self, tags: Collection[int]) -> None:
        """They are dealt with. Does not wait; what the broker has taken back already is dropped in silence."""
        own = {tag: None for tag in tags if tag in self._handed}
        lowest = self._lowest_run(own)
        single = [tag for tag in own if tag > lowest]

        def write(driver: Channel) -> None:
            if lowest:
                driver.basic_ack(lowest, multiple=True)
            for tag in single:
                driver.basic_ack(tag)

        # First, or `_look` might see that nothing is in work and close the channel under it.
        self._channel.tell(write)
        for tag in own:
            del self._handed[tag]

    def _lowest_run(self, tags: Collection[int]) -> int:
        """The last of those tags below which nothing else is outstanding; 0 for none.

        What waits in the inbox has higher tags than anything that was received.
        """
        last = 0
        for tag in self._handed:
            if tag not in tags:
                break
            last = tag
        return last

    def _widen(self, room: int) -> None:
        self._channel.ask(lambda driver, answer: driver.basic_qos(prefetch_count=room, callback=answer))
        self._channel.ask(lambda driver, answer: driver.basic_consume(self.queue, self._put, callback=answer))
        self._window += room

    def _synchronise(self) -> None:
        """Whatever the broker had sent before it answers has come; that it sets a window for later is no matter."""
        self._channel.ask(lambda driver, answer: driver.basic_qos(prefetch_count=1, callback=answer))

    # In the connection's thread:

    def _prepare(self, driver: Channel) -> None:
        driver.add_on_cancel_callback(self._cancel)
        self._connection.later(IDLE, self._look)

    def _put(self, _driver: Channel, method: Basic.Deliver, _properties: BasicProperties, body: bytes) -> None:
        self._inbox.put(Delivery(self.queue, body, method.redelivered, (self, method.delivery_tag)))

    def _cancel(self, _frame: Any) -> None:
        """The broker ended a consumer: its queue is deleted, say."""
        self._end(ConsumerCancelled("the broker ended the consumer; somebody may have deleted the queue"))
        self._channel.close()

    def _end(self, reason: BaseException) -> None:
        if self._ended:
            return
        self._ended = True
        self._inbox.fail(unavailable(self._address, f"receive from {self.queue}", reason))

    def _look(self) -> None:
        """Give back what was fetched for nobody. Only a closed channel gives back, so nothing may be in work."""
        with self._lock:
            idle = time.monotonic() - self._asked_at
            if not self._receiving and not self._handed and idle >= IDLE:
                self._given_back = True
        if self._given_back:
            self._channel.close()
        elif not self._channel.is_closed:
            self._connection.later(max(_LOOK, IDLE - idle), self._look)
