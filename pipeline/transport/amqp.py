"""AMQP as a transport: RabbitMQ's durable quorum queues, through pika.

One thread owns a connection (`amqp_connection`); it is made when a call needs it, and made anew
by the next call after it was lost. Messages are published many at a time, with one wait for all
confirms (`amqp_publisher`), and fetched ahead, each queue on a channel of its own
(`amqp_subscription`). What is published has a connection for itself: a broker that runs out of
memory or disk reads nothing any more from those who publish, be it the acknowledgements that
would make room.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum

from pipeline.errors import BrokerUnavailable
from pipeline.transport.address import TLS_OPTIONS, BrokerAddress, parse_broker_address
from pipeline.transport.amqp_channel import Queues
from pipeline.transport.amqp_connection import AmqpConnection, Terms, connect
from pipeline.transport.amqp_errors import broker_errors
from pipeline.transport.amqp_publisher import Publisher
from pipeline.transport.amqp_subscription import Subscription
from pipeline.transport.port import Capabilities, Delivery, Depth
from pipeline.transport.publication import Addressed, rounds
from pipeline.transport.rabbit_management import RabbitManagement
from schemas.messages import Message

_HEARTBEAT = 30.0
_BLOCKED_TIMEOUT = 300.0
_ROUND = 1_000
"""Messages that wait for their confirms together."""
_ROUND_BYTES = 16 << 20
"""And about so many bytes: they are all in memory."""


def open_transport(url: str, consumer: str) -> AmqpTransport:
    """The broker at `url` (amqp://, amqps://), as `consumer`; it connects at the first call.

    Options in the URL: `heartbeat` and `blocked_connection_timeout` (seconds), `management` (the URL of RabbitMQ's
    management API, without which nobody can tell what is in flight), and for amqps `cafile`, `certfile`, `keyfile`.
    Raises BadSettings on a wrong URL.
    """
    with_tls = url.startswith("amqps:")
    address = parse_broker_address(
        url,
        port=5671 if with_tls else 5672,
        user="guest",
        options={"heartbeat", "blocked_connection_timeout", "management"} | (TLS_OPTIONS if with_tls else set()),
    )
    terms = Terms(
        address,
        consumer,
        heartbeat=address.seconds("heartbeat", _HEARTBEAT),
        blocked_timeout=address.seconds("blocked_connection_timeout", _BLOCKED_TIMEOUT),
        tls=address.tls_context() if with_tls else None,
    )
    management = address.options.get("management")
    return AmqpTransport(terms, RabbitManagement(management, address.vhost) if management else None)


class _Use(Enum):
    """What a connection is for."""

    PUBLISH = "publish"
    CONSUME = "consume"


class AmqpTransport:
    """One consumer's connections: up to one for each use."""

    capabilities = Capabilities(name="amqp", durable=True, reports_age=False, fetches_ahead=True)

    def __init__(self, terms: Terms, management: RabbitManagement | None) -> None:
        self._terms = terms
        self._management = management
        self._sessions: dict[_Use, _Session] = {}
        self._closed = False

    def publish(self, messages: Sequence[Message]) -> None:
        """See the port. Each 1,000 messages cost one wait for the broker."""
        for part in rounds(messages, most=_ROUND, most_bytes=_ROUND_BYTES):
            with self._calling(f"publish to {', '.join(_queues_of(part))}", _Use.PUBLISH) as session:
                session.publisher().publish(part)

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """See the port. Raises BrokerUnavailable once, too, when the broker ended the subscription."""
        with self._calling(f"receive from {queue}") as session:
            while True:
                received = session.subscription(queue).receive(most, wait)
                if received is not None:
                    return received

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See the port. It does not wait for the broker, which confirms no acknowledgement."""
        tags: dict[Subscription, list[int]] = defaultdict(list)
        for delivery in deliveries:
            subscription, tag = delivery.receipt
            tags[subscription].append(tag)
        for subscription, own in tags.items():
            subscription.acknowledge(own)

    def depth(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """See the port. What is in flight is known to the management API alone."""
        told = self._management.counts(queues) if self._management else {}
        found = {}
        for queue in queues:
            with self._calling(f"count {queue}") as session:
                ready = session.queues.ready(queue)
            in_flight = told[queue][1] if queue in told else None
            found[queue] = Depth(ready or 0, in_flight, None)
        return found

    def purge(self, queue: str) -> int:
        """See the port."""
        with self._calling(f"purge {queue}") as session:
            return session.queues.purge(queue)

    def close(self) -> None:
        """See the port."""
        self._closed = True
        for session in self._sessions.values():
            session.connection.close()
            session.drop()
        self._sessions.clear()
        if self._management is not None:
            self._management.close()

    @contextmanager
    def _calling(self, doing: str, use: _Use = _Use.CONSUME) -> Iterator[_Session]:
        if self._closed:
            raise BrokerUnavailable(
                f"cannot {doing} at {self._terms.address.shown}: this transport is closed; open another one"
            )
        with broker_errors(self._terms.address, doing):
            session = self._sessions.get(use)
            if session is None or session.connection.is_lost:
                session = self._sessions[use] = self._new_session(session)
            yield session

    def _new_session(self, lost: _Session | None) -> _Session:
        if lost is not None:
            lost.drop()
        connection = connect(self._terms)
        # A transport that is dropped without `close` must not keep its messages from others.
        return _Session(connection, self._terms.address, weakref.finalize(self, connection.drop))


class _Session:
    """A connection and what hangs on it, all of which is void when it is lost."""

    def __init__(self, connection: AmqpConnection, address: BrokerAddress, drop: Callable[[], object]) -> None:
        self.connection = connection
        self.drop = drop
        """Ends the connection without a word; may be called twice."""
        self.queues = Queues(connection)
        self._address = address
        self._subscriptions: dict[str, Subscription] = {}
        self._publisher: Publisher | None = None

    def publisher(self) -> Publisher:
        if self._publisher is None or self._publisher.is_closed:
            self._publisher = Publisher(self.connection, self.queues)
        return self._publisher

    def subscription(self, queue: str) -> Subscription:
        found = self._subscriptions.get(queue)
        if found is None or found.is_over:
            # It may be over because the queue is.
            self.queues.forget(queue)
            self.queues.declare(queue)
            found = self._subscriptions[queue] = Subscription(self.connection, queue, self._address)
        return found


def _queues_of(part: Sequence[Addressed]) -> list[str]:
    return list(dict.fromkeys(queue for queue, _ in part))
