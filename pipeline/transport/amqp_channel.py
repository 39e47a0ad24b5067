"""One channel of a connection, asked from another thread; and the queues that are declared through one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from pipeline.transport.amqp_connection import AmqpConnection, fail, succeed
from pipeline.transport.amqp_errors import NoAnswer

Answer = Callable[[Any], None]

PREFERRED_TYPE = "quorum"
"""The kind of queue that RabbitMQ keeps on several nodes."""

_NOT_FOUND = 404
_PRECONDITION_FAILED = 406
_NOT_IMPLEMENTED = 540


class AmqpChannel:
    """Open once it is made, until either side closes it; `on_closed` is then told why, in the connection's thread."""

    def __init__(self, connection: AmqpConnection, on_closed: Callable[[BaseException], None] | None = None) -> None:
        self.connection = connection
        self._on_closed = on_closed
        self._closed: BaseException | None = None
        self._asked: Future[Any] = Future()
        self._driver: Channel
        self._open(self._asked)
        self._wait(self._asked, lambda: 0)

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""
        return self._closed is not None or self.connection.is_lost

    def ask(
        self,
        question: Callable[[Channel, Answer], object],
        *,
        progress: Callable[[], int] = lambda: 0,
    ) -> Any:
        """What `question` (run in the connection's thread) has been answered. One question at a time.

        A broker that for the connection's patience neither answers nor lets `progress` change is lost. Raises what
        the driver or the broker object.
        """
        self._asked = asked = Future[Any]()
        self.connection.run(lambda: self._ask(question, asked), asked)
        return self._wait(asked, progress)

    def tell(self, what: Callable[[Channel], object]) -> None:
        """Have `what` done in the connection's thread; no matter if it is too late for it."""
        self.connection.run(lambda: what(self._driver))

    def close(self) -> None:
        """What is unacknowledged goes to others. Does not wait, and may be called twice."""
        self.tell(lambda driver: driver.close())

    def _open(self, opened: Future[Any]) -> None:
        def start() -> None:
            self._driver = self.connection.driver.channel(on_open_callback=lambda _driver: succeed(opened, None))
            self._driver.add_on_close_callback(lambda _driver, reason: self._end(reason))
            self.connection.on_loss.add(self._end)

        self.connection.run(start, opened)

    def _ask(self, question: Callable[[Channel, Answer], object], asked: Future[Any]) -> None:
        if self._closed is not None:
            fail(asked, self._closed)
        else:
            question(self._driver, lambda answer: succeed(asked, answer))

    def _wait(self, asked: Future[Any], progress: Callable[[], int]) -> Any:
        patience = self.connection.patience
        while True:
            before = progress()
            try:
                return asked.result(patience)
            except TimeoutError:
                if asked.done():
                    return asked.result()
                if progress() == before:
                    if self.connection.blocked is not None:
                        raise NoAnswer(self.connection.blocked) from None
                    self.connection.drop()
                    raise NoAnswer(f"no answer within {patience:g} s") from None

    def _end(self, reason: BaseException) -> None:
        self.connection.on_loss.discard(self._end)
        self._closed = reason
        fail(self._asked, reason)
        if self._on_closed is not None:
            self._on_closed(reason)


class Queues:
    """The queues of one connection: made at their first use, looked at, emptied."""

    def __init__(self, connection: AmqpConnection) -> None:
        self._connection = connection
        self._channel: AmqpChannel | None = None
        self._declared: set[str] = set()

    def declare(self, queue: str) -> None:
        """Have it there: as it is, else as a quorum queue, else as what the server has that is durable."""
        if queue in self._declared:
            return
        if self.ready(queue) is None:
            self._create(queue)
        self._declared.add(queue)

    def forget(self, queue: str) -> None:
        """It may be gone: look again before its next use."""
        self._declared.discard(queue)

    def ready(self, queue: str) -> int | None:
        """Messages that nobody has fetched; None when there is no such queue."""
        try:
            declared = self._ask(lambda driver, answer: driver.queue_declare(queue, passive=True, callback=answer))
        except ChannelClosedByBroker as error:
            # The same code is given for a queue that is there and can't be reached now.
            if error.reply_code == _NOT_FOUND and "no queue" in error.reply_text:
                return None
            raise
        return int(declared.method.message_count)

    def purge(self, queue: str) -> int:
        """Throw away what nobody has fetched; returns how many."""
        if self.ready(queue) is None:
            return 0
        return int(self._ask(lambda driver, answer: driver.queue_purge(queue, callback=answer)).method.message_count)

    def _create(self, queue: str) -> None:
        arguments: dict[str, Any] = {"x-queue-type": PREFERRED_TYPE}
        if self._connection.knows_no_delivery_limit:
            arguments["x-delivery-limit"] = -1
        try:
            self._declare(queue, arguments)
        except ChannelClosedByBroker as error:
            if error.reply_code not in {_PRECONDITION_FAILED, _NOT_IMPLEMENTED}:
                raise
            # A server without quorum queues, or somebody has made the queue of another kind since we looked.
            if self.ready(queue) is None:
                self._declare(queue, {})

    def _declare(self, queue: str, arguments: dict[str, Any]) -> None:
        self._ask(
            lambda driver, answer: driver.queue_declare(queue, durable=True, arguments=arguments, callback=answer)
        )

    def _ask(self, question: Callable[[Channel, Answer], object]) -> Any:
        if self._channel is None or self._channel.is_closed:
            self._channel = AmqpChannel(self._connection)
        return self._channel.ask(question)
