"""A connection to an AMQP broker, and the thread that owns it."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pika import ConnectionParameters, PlainCredentials, SelectConnection, SSLOptions
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from pipeline.transport.address import BrokerAddress
from pipeline.transport.amqp_errors import ERRORS, NoAnswer, Unreachable, described

_ANSWER_TIMEOUT = 10.0
"""Seconds without any answer after which a broker counts as lost, or two heartbeats where that is less."""

_CONNECT_TIMEOUT = 5.0
"""Seconds for each server of the address, from the first packet to the opened vhost."""
_GOODBYE = 0.5
"""Seconds for an orderly end; the broker notices the other kind as well."""

# The driver logs every loss of a connection with tracebacks. Our callers say it once, in a line.
logging.getLogger("pika").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a connection is to be kept."""

    address: BrokerAddress
    consumer: str
    """The connection's name in the broker's own lists."""
    heartbeat: float
    blocked_timeout: float
    """Seconds of a memory or disk alarm after which the connection is given up."""
    tls: ssl.SSLContext | None

    def parameters(self, host: str, port: int) -> ConnectionParameters:
        """What the driver needs to connect to one of the servers."""
        return ConnectionParameters(
            host=host,
            port=port,
            virtual_host=self.address.vhost,
            credentials=PlainCredentials(self.address.user, self.address.password),
            heartbeat=max(1, round(self.heartbeat)),
            blocked_connection_timeout=self.blocked_timeout,
            socket_timeout=_CONNECT_TIMEOUT,
            stack_timeout=_CONNECT_TIMEOUT,
            connection_attempts=1,
            ssl_options=SSLOptions(self.tls, server_hostname=host) if self.tls else None,
            client_properties={"connection_name": self.consumer, "product": "Penstock"},
        )


def connect(terms: Terms) -> AmqpConnection:
    """A connection to the first server that takes us. Raises the driver's errors, or Unreachable for several."""
    reasons = []
    for host, port in terms.address.hosts:
        try:
            return AmqpConnection(terms.parameters(host, port))
        except ERRORS as error:
            if len(terms.address.hosts) == 1:
                raise
            reasons.append(f"{host}:{port}: {described(error)}")
    raise Unreachable("; ".join(reasons))


class AmqpConnection:
    """Open once it is made, until it is lost; there is no way back from there but another connection.

    Whatever touches the driver runs in its one thread: `run` takes it there. To a process that is forked it is lost.
    """

    def __init__(self, parameters: ConnectionParameters) -> None:
        self.blocked: str | None = None
        """That the broker takes no messages now, and why; or None."""
        self.patience = min(_ANSWER_TIMEOUT, 2.0 * parameters.heartbeat)
        """Seconds to wait for an answer."""
        self.on_loss: set[Callable[[BaseException], None]] = set()
        """Who is told when it is lost; for its own thread alone."""
        self._process = os.getpid()
        self._services = _Services(IOLoop())
        self._loop = self._services.get_native_ioloop()
        self._lock = threading.Lock()
        self._lost: BaseException | None = None
        self._unanswered: set[Future[Any]] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._driver: SelectConnection
        opened: Future[None] = Future()
        self._unanswered.add(opened)
        self._thread = threading.Thread(target=self._serve, args=(parameters, opened), name="amqp", daemon=True)
        self._thread.start()
        opened.result()

    @property
    def is_lost(self) -> bool:
        """Whether it is over, for whatever reason."""
        return self._lost is not None or self._process != os.getpid()

    @property
    def driver(self) -> SelectConnection:
        """For the connection's own thread alone."""
        return self._driver

    @property
    def knows_no_delivery_limit(self) -> bool:
        """Whether it is a RabbitMQ that has a delivery limit by default and lets us do without (4.0 and later)."""
        properties = self._driver.server_properties or {}
        major = str(properties.get("version", "")).partition(".")[0]
        return properties.get("product") == "RabbitMQ" and major.isdecimal() and int(major) >= 4

    def run(self, what: Callable[[], object], reply: Future[Any] | None = None) -> None:
        """Have `what` done in the connection's thread; what it raises, and a loss of the connection, go to `reply`."""

        def do() -> None:
            try:
                what()
            # Whatever the driver objects to is the caller's to hear, and none of the thread's business.
            except Exception as error:  # noqa: BLE001
                fail(reply, error)

        with self._lock:
            if not self.is_lost:
                if reply is not None:
                    self._unanswered.add(reply)
                    reply.add_done_callback(self._unanswered.discard)
                self._loop.add_callback_threadsafe(do)
                return
        fail(reply, self._lost or NoAnswer("the connection is another process's"))

    def wait_until_flowing(self) -> None:
        """Wait for the end of an alarm, before more is written that it will not read. Raises NoAnswer."""
        if not self._flowing.wait(self.patience) and self.blocked is not None:
            raise NoAnswer(self.blocked)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Have `what` done after a while, unless the connection is lost before; for its own thread."""
        self._loop.call_later(seconds, what)

    def close(self) -> None:
        """End it in an orderly way; by force when the broker takes its time. May be called twice."""
        self.run(self._close)
        self._thread.join(_GOODBYE)
        self.drop()
        self._thread.join(_GOODBYE)

    def drop(self) -> None:
        """End it at once, without a word to the broker. Any thread may call it."""
        # A forked process has the same line, but the connection is its parent's.
        if self._process == os.getpid():
            self._services.hang_up()

    def _serve(self, parameters: ConnectionParameters, opened: Future[None]) -> None:
        try:
            self._driver = SelectConnection(
                parameters,
                on_open_callback=lambda _driver: succeed(opened, None),
                on_open_error_callback=self._end,
                on_close_callback=self._end,
                custom_ioloop=self._services,
            )
            self._driver.add_on_connection_blocked_callback(self._block)
            self._driver.add_on_connection_unblocked_callback(self._unblock)
            self._loop.start()
        # The driver's own failures, too, are a lost connection to those who wait for an answer.
        except Exception as failure:  # noqa: BLE001
            self._lose(failure)
            self._clear_away()
        finally:
            self._lose(NoAnswer("the connection's thread ended"))
            self._services.hang_up()
            self._services.close()

    def _clear_away(self) -> None:
        """Let a driver that failed read the end of its stream, which makes it close what it has open."""
        self._services.hang_up()
        self._loop.call_later(_GOODBYE, self._loop.stop)
        self._loop.start()

    def _lose(self, reason: BaseException) -> None:
        with self._lock:
            self._lost = lost = self._lost or reason
        for reply in list(self._unanswered):
            fail(reply, lost)
        # The driver told them, unless it failed itself.
        for tell in list(self.on_loss):
            tell(lost)
        self._flowing.set()

    def _close(self) -> None:
        self._driver.close()

    def _end(self, _driver: SelectConnection, reason: BaseException) -> None:
        self._lose(reason)
        self._loop.stop()

    def _block(self, _driver: SelectConnection, frame: Any) -> None:
        self.blocked = f"the broker takes no messages now: {frame.method.reason}"
        self._flowing.clear()

    def _unblock(self, _driver: SelectConnection, _frame: Any) -> None:
        self.blocked = None
        self._flowing.set()


class _Services(SelectorIOServicesAdapter):  # type: ignore[misc]  # pika has no types
    """The driver's I/O services, with a way to hang up: its own are to ask the broker, or to wait for heartbeats."""

    def __init__(self, loop: IOLoop) -> None:
        super().__init__(loop)
        self._lock = threading.Lock()
        self._line: socket.socket | None = None

    def connect_socket(self, sock: socket.socket, resolved_addr: Any, on_done: Callable[..., None]) -> Any:
        with self._lock:
            previous, self._line = self._line, sock.dup()
        if previous is not None:
            previous.close()
        return super().connect_socket(sock, resolved_addr, on_done)

    def hang_up(self) -> None:
        """End the stream: the driver reads its end. May be called twice, by any thread."""
        with self._lock:
            line, self._line = self._line, None
        if line is None:
            return
        try:
            line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already
        finally:
            line.close()


def succeed(reply: Future[Any], value: Any) -> None:
    """Answer, unless it is answered already."""
    if not reply.done():
        reply.set_result(value)


def fail(reply: Future[Any] | None, error: BaseException) -> None:
    """Answer with an error, unless it is answered already."""
    if reply is not None and not reply.done():
        reply.set_exception(error)
