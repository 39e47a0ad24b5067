"""One STOMP connection from CONNECT to its end: frames out, receipts awaited, deliveries into an inbox."""

from __future__ import annotations

import itertools
import os
import ssl
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stomp.exception import StompException
from stomp.listener import ConnectionListener
from stomp.utils import Frame, convert_frame, pack

from pipeline.errors import BrokerUnavailable
from pipeline.transport.address import BrokerAddress
from pipeline.transport.inbox import Inbox
from pipeline.transport.port import Delivery
from pipeline.transport.stomp_socket import StompClient, StompSocket

CONNECT_TIMEOUT = 5.0
"""Seconds for each of: the TCP connection with its TLS, and the answer to CONNECT."""
CONFIRM_TIMEOUT = 10.0
"""Seconds in which at least one of the receipts that are waited for must come."""
HEARTBEAT = 10.0
"""Seconds in which either side promises to send something, unless the URL says otherwise."""
_FAREWELL = 0.4
"""Seconds that the broker gets to confirm our DISCONNECT, and with it the acknowledgements before."""

OutgoingFrame = tuple[str, Mapping[str, str], bytes]
"""Command, headers, body."""


class NotLetIn(BrokerUnavailable):
    """The server is there, and refused the login."""


@dataclass(frozen=True, slots=True)
class AckId:
    """What a delivery is acknowledged by; it means nothing on any other connection."""

    connection: StompConnection
    name: str


class StompConnection:
    """For one thread at a time, beside stomp.py's own. Once it is lost every call raises BrokerUnavailable."""

    def __init__(
        self, address: BrokerAddress, host: tuple[str, int], tls: ssl.SSLContext | None, heartbeat: float
    ) -> None:
        """Connect and log in. Raises BrokerUnavailable."""
        self.ended = threading.Event()
        self.inbox = Inbox()
        self.refusal = ""
        """The server's own words in full, where it ended the connection with an ERROR frame."""
        self.server = ""
        """As `ActiveMQ/5.17.2`; empty until it has let us in."""
        self._process = os.getpid()
        self._broker_run = ""
        self._place = f"{host[0]}:{host[1]}"
        self._changed = threading.Condition()
        self._failure: BrokerUnavailable | None = None
        self._numbers = map(str, itertools.count(1))
        self._pending: set[str] = set()
        self._queues: dict[str, str] = {}
        patience = min(CONFIRM_TIMEOUT, 2 * heartbeat)
        self._socket = StompSocket(host, vhost=address.vhost, tls=tls, timeout=CONNECT_TIMEOUT, patience=patience)
        client = StompClient(self._socket, heartbeat)
        client.set_listener("penstock", _Ears(self))
        try:
            self._socket.start()
        except (OSError, StompException) as error:
            self.abandon()
            raise BrokerUnavailable(f"no connection to the broker at {self._place}: {error}") from error
        try:
            client.connect(address.user, address.password, with_connect_command=True)
            self._await_greeting()
        except (OSError, StompException, BrokerUnavailable) as error:
            # The driver only knows that its socket is closed, where a server cuts what it has just accepted.
            self.end()
            self.abandon()
            raise (NotLetIn if self.refusal else BrokerUnavailable)(str(self._failure)) from error

    @property
    def is_lost(self) -> bool:
        """Whether it is of no use any more."""
        return self.ended.is_set()

    @property
    def is_activemq(self) -> bool:
        """Whether the server is ActiveMQ Classic."""
        return self.server.startswith("ActiveMQ/")

    def new_id(self) -> str:
        """A name that is unique on this connection."""
        return next(self._numbers)

    def subscribe(self, queue: str, subscriptions: Sequence[Mapping[str, str]]) -> None:
        """Make subscriptions of these headers, and have what they bring put into the inbox as of `queue`.

        Returns when the server has agreed to all.
        """
        asked = [{"id": self.new_id(), **headers} for headers in subscriptions]
        self._queues |= {headers["id"]: queue for headers in asked}
        self.send_confirmed([("SUBSCRIBE", headers, b"") for headers in asked])

    def is_subscribed(self, queue: str) -> bool:
        """Whether something is put into the inbox as of `queue`."""
        return queue in self._queues.values()

    def send(self, frames: Iterable[OutgoingFrame]) -> None:
        """Send, and wait for nothing."""
        self.check()
        packed = b"".join(pack(convert_frame(Frame(*frame))) for frame in frames)
        try:
            self._socket.send(packed)
        except (OSError, StompException) as error:
            self.fail(f"is lost: {error or 'not connected'}")
            self.check()

    def send_confirmed(self, frames: Sequence[OutgoingFrame], patience: float = CONFIRM_TIMEOUT) -> None:
        """Send, and return when the server has confirmed each; `patience` is seconds without any progress."""
        receipts = [self.new_id() for _ in frames]
        with self._changed:
            self._pending.update(receipts)
        self.send(
            (command, {**headers, "receipt": receipt}, body)
            for (command, headers, body), receipt in zip(frames, receipts, strict=True)
        )
        self._await_receipts(patience)

    def close(self) -> None:
        """Say goodbye, so that what was sent is dealt with, and end it: soon and silently, whoever listens."""
        # Where it fails, the server gives what we held to others by itself.
        with suppress(BrokerUnavailable):
            self.send_confirmed([("DISCONNECT", {}, b"")], _FAREWELL)
        self.abandon()

    def abandon(self) -> None:
        """End it at once; in a process that was forked from the one which made it, nothing."""
        if os.getpid() != self._process:
            return
        self.fail("was left")
        self._socket.disconnect_socket()
        self._socket.await_end(_FAREWELL)

    def greet(self, headers: Mapping[str, str]) -> None:
        """The server has let us in."""
        with self._changed:
            self._broker_run = headers.get("session", "").rpartition("-")[0]
            self.server = headers.get("server", "unknown")
            self._changed.notify_all()

    def deliver(self, headers: Mapping[str, str], body: bytes) -> None:
        """A message has come."""
        again = headers.get("redelivered") == "true" or self._outlived_its_broker(headers)
        queue = self._queues[headers["subscription"]]
        receipt = AckId(self, headers.get("ack", ""))
        self.inbox.put(Delivery(queue=queue, payload=body, redelivered=again, receipt=receipt))

    def confirm(self, receipt: str) -> None:
        """A receipt has come."""
        with self._changed:
            self._pending.discard(receipt)
            if not self._pending:
                self._changed.notify_all()

    def refuse(self, message: str, detail: str) -> None:
        """The server said ERROR: it ends the connection, or has lost track of what we want."""
        self.refusal = f"{message}\n{detail}"
        first = next((line.strip() for line in detail.splitlines() if line.strip()), "")
        reason = f"{message}: {first}" if message and first and message not in first else message or first
        self.fail(f"refused: {reason}")
        self._socket.disconnect_socket()

    def end(self) -> None:
        """The connection has ended."""
        # Whenever we leave ourselves we have said before why; stomp.py leaves for one reason alone.
        self.fail("sends no heart-beats any more" if self._socket.was_left else "ended the connection")

    def fail(self, what: str) -> None:
        """It is lost, if it was not before."""
        with self._changed:
            if self._failure is None:
                self._failure = BrokerUnavailable(f"the broker at {self._place} {what}")
                self.inbox.fail(self._failure)
                self.ended.set()
            self._changed.notify_all()

    def _outlived_its_broker(self, headers: Mapping[str, str]) -> bool:
        """ActiveMQ forgets over a restart what it had delivered, so all that it had then may have been received.

        Its names of sessions and messages begin with `ID:HOST-PORT-START`, which tells its runs apart.
        """
        return self.is_activemq and not headers["message-id"].startswith(self._broker_run)

    def check(self) -> None:
        """Raises BrokerUnavailable if it is lost."""
        if self._failure is not None:
            raise BrokerUnavailable(str(self._failure)) from self._failure

    def _await_receipts(self, patience: float) -> None:
        """Progress is looked at in the end, not announced: receipts come in swarms."""
        with self._changed:
            left = len(self._pending) + 1
            while 0 < len(self._pending) < left and not self.is_lost:
                left = len(self._pending)
                self._changed.wait(patience)
            if self._pending:
                self.fail(f"confirms nothing for {patience:g} s")
                self.check()

    def _await_greeting(self) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.server or self.is_lost, CONNECT_TIMEOUT):
                self.fail(f"did not answer for {CONNECT_TIMEOUT:g} s")
            self.check()


class _Ears(ConnectionListener):  # type: ignore[misc]  # stomp.py has no types
    """What stomp.py's receiving thread does: it puts things where they are waited for, and nothing else."""

    def __init__(self, connection: StompConnection) -> None:
        self._connection = connection

    def on_connected(self, frame: Any) -> None:
        self._connection.greet(frame.headers)

    def on_message(self, frame: Any) -> None:
        self._connection.deliver(frame.headers, frame.body)

    def on_receipt(self, frame: Any) -> None:
        self._connection.confirm(frame.headers["receipt-id"])

    def on_error(self, frame: Any) -> None:
        self._connection.refuse(frame.headers.get("message", ""), frame.body.decode(errors="replace"))

    def on_disconnected(self) -> None:
        self._connection.end()
