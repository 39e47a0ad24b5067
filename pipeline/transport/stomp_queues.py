"""STOMP as a transport: ActiveMQ Classic, and RabbitMQ with its STOMP plugin.

A consumer fetches ahead: a standing subscription per queue whose window is what `receive` asked for, so that the
next batch is here when it is wanted. Unacknowledged messages go to others when the connection ends; neither server
lets a subscription end without losing track of them, so subscriptions last as long as the connection.
"""

from __future__ import annotations

import ssl
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from pipeline.errors import BrokerUnavailable
from pipeline.transport.address import TLS_OPTIONS, BrokerAddress, parse_broker_address
from pipeline.transport.port import Capabilities, Delivery, Depth
from pipeline.transport.publication import Addressed, rounds
from pipeline.transport.stomp_connection import HEARTBEAT, NotLetIn, StompConnection
from pipeline.transport.stomp_depth import Counts
from pipeline.transport.stomp_destinations import Destinations
from pipeline.transport.stomp_window import PAUSE, Windows
from schemas.messages import Message

_PORTS = {"stomp": 61613, "stomp+ssl": 61614}
_OPTIONS = TLS_OPTIONS | {"heartbeat", "management"}
_ROUND = 1_000
"""Messages sent before their receipts are waited for."""
_ROUND_BYTES = 8 << 20
_SILENCE = 0.5
"""Seconds without a message after which a queue that is purged counts as empty."""

T = TypeVar("T")


def open_transport(url: str, _consumer: str) -> StompTransport:
    """The broker at `url` (stomp://, stomp+ssl://), which doesn't ask for the consumer's name. Raises BadSettings.

    Options: `heartbeat` (seconds), `cafile`, `certfile`, `keyfile`, and `management`, the URL of RabbitMQ's
    management API.
    """
    scheme = urlsplit(url).scheme
    address = parse_broker_address(url, port=_PORTS[scheme], user="guest", options=_OPTIONS)
    return StompTransport(address, address.tls_context() if scheme == "stomp+ssl" else None)


class StompTransport:
    """A connection that is made when it is needed, and made again by the call that finds it lost."""

    capabilities = Capabilities(name="stomp", durable=True, reports_age=False, fetches_ahead=True)

    def __init__(self, address: BrokerAddress, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._tls = tls
        self._hosts = list(address.hosts)
        self._destinations = Destinations()
        self._counts = Counts(address)
        self._heartbeat = address.seconds("heartbeat", HEARTBEAT)
        self._connection: StompConnection | None = None
        self._windows: Windows | None = None
        self._end: Callable[[], object] = _nothing
        self._calling = threading.Lock()
        self._closed = False

    def publish(self, messages: Sequence[Message]) -> None:
        """See the port."""
        for part in rounds(messages, most=_ROUND, most_bytes=_ROUND_BYTES):
            queues = ", ".join(sorted({queue for queue, _ in part}))
            self._call(f"publish to {queues}", partial(self._publish, part))

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """See the port."""
        action = partial(self._receive, queue, most, wait)
        return self._call(f"receive from {queue}", action, wanted=queue)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See the port. They are sent and not confirmed: what gets lost with the connection is delivered again."""
        with self._calling:
            if self._connection is None or self._windows is None or self._connection.is_lost:
                return
            names = self._windows.settle(deliveries)
            try:
                self._connection.send([("ACK", {"id": name}, b"") for name in names])
            except BrokerUnavailable:
                self._leave()

    def depth(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """See the port. What the server does not tell is None: see `stomp_depth`."""
        return self._call(f"count {', '.join(queues)}", lambda connection: self._counts.of(connection, queues))

    def purge(self, queue: str) -> int:
        """See the port. STOMP knows no such thing: another connection receives everything and acknowledges it."""
        self._refuse_if_closed(f"purge {queue}")
        other = StompTransport(self._address, self._tls)
        purged = 0
        try:
            while received := other.receive(queue, _ROUND, _SILENCE):
                other.acknowledge(received)
                purged += len(received)
        finally:
            other.close()
        return purged

    def close(self) -> None:
        """See the port."""
        with self._calling:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
            self._leave()
            self._counts.close()

    def give_back(self) -> None:
        """If a queue is paused, end the connection, by which what was fetched ahead goes to others."""
        if self._calling.acquire(blocking=False):
            try:
                self._end_if_paused()
            finally:
                self._calling.release()

    def _call(self, doing: str, action: Callable[[StompConnection], T], wanted: str | None = None) -> T:
        """The answer of `action` on a live connection; a second try where the server's refusal taught us better."""
        with self._calling:
            self._end_if_paused(wanted)
            while True:
                connection = self._connected(doing)
                try:
                    return action(connection)
                except BrokerUnavailable as error:
                    self._leave()
                    if not self._destinations.learn(connection.refusal):
                        raise BrokerUnavailable(f"cannot {doing}: {error}") from error

    def _connected(self, doing: str) -> StompConnection:
        self._refuse_if_closed(doing)
        if self._connection is not None and not self._connection.is_lost:
            return self._connection
        self._leave()
        errors: list[BrokerUnavailable] = []
        for _ in self._hosts:
            # The server that served last is the first one, the others follow in their order.
            try:
                self._connection = StompConnection(self._address, self._hosts[0], self._tls, self._heartbeat)
            except BrokerUnavailable as error:
                errors.append(error)
                self._hosts.append(self._hosts.pop(0))
            else:
                # Whoever is dropped without `close` is a dead consumer, and its connection must not live on.
                self._end = dropped = weakref.finalize(self, self._connection.abandon)
                # A process that was forked from this one ends, and the connection is not its own.
                dropped.atexit = False
                return self._connection
        raise BrokerUnavailable(f"cannot {doing}: {'; '.join(map(str, errors))}; {self._advice(errors)}")

    def _advice(self, errors: Sequence[BrokerUnavailable]) -> str:
        if any(isinstance(error, NotLetIn) for error in errors):
            return (
                f"check in PENSTOCK_BROKER_URL the password of user {self._address.user!r} and the vhost"
                f" {self._address.vhost!r}, on which it needs permissions"
            )
        return "check that the broker runs, and scheme, host and port in PENSTOCK_BROKER_URL"

    def _refuse_if_closed(self, doing: str) -> None:
        if self._closed:
            raise BrokerUnavailable(
                f"cannot {doing}: this connection to {self._address.shown} was closed; open another"
            )

    def _leave(self) -> None:
        self._connection, self._windows = None, None
        self._end()
        self._end = _nothing

    def _publish(self, part: Sequence[Addressed], connection: StompConnection) -> None:
        """One round. ActiveMQ writes each confirmed message to disk by itself, but a transaction as one."""
        if len(part) == 1 or not connection.is_activemq:
            connection.send_confirmed([("SEND", self._destinations.sending(queue), body) for queue, body in part])
            return
        within = {"transaction": connection.new_id()}
        connection.send([("BEGIN", within, b"")])
        connection.send([("SEND", {**self._destinations.sending(queue), **within}, body) for queue, body in part])
        connection.send_confirmed([("COMMIT", within, b"")])

    def _receive(self, queue: str, most: int, wait: float, connection: StompConnection) -> list[Delivery]:
        if self._windows is None:
            self._windows = Windows(connection)
            watch = threading.Thread(
                target=_watch, args=(weakref.ref(self), connection), name="penstock-stomp-watch", daemon=True
            )
            watch.start()
        if lacking := self._windows.lacking(queue, most):
            asked = [self._destinations.subscribing(queue, prefetch) for prefetch in lacking]
            connection.subscribe(queue, asked)
            self._windows.widen(queue, lacking)
        deliveries = connection.inbox.take(queue, most, wait)
        self._windows.hand_out(queue, deliveries)
        return deliveries

    def _end_if_paused(self, wanted: str | None = None) -> None:
        if self._connection is not None and self._windows is not None and self._windows.should_end(wanted):
            self._connection.close()
            self._leave()


def _watch(transport: weakref.ref[StompTransport], connection: StompConnection) -> None:
    """Until the connection ends, see to it that a consumer which nobody calls keeps nothing from others."""
    while not connection.ended.wait(PAUSE / 5):
        consumer = transport()
        if consumer is not None:
            consumer.give_back()
        # It must be possible to drop it while this waits.
        del consumer


def _nothing() -> None:
    """There is no connection to end."""
