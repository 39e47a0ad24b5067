"""stomp.py's transport on sockets of ours, which verify the server's name and never block for ever.

stomp.py waits without end for room in a socket's buffer, builds TLS contexts of its own, and does not
notice the end of a TLS connection.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from stomp.connect import BaseConnection
from stomp.exception import NotConnectedException
from stomp.protocol import Protocol12
from stomp.transport import Transport

_CHUNK = 65_536
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Linux has it."""
_MUST_READ = (BlockingIOError, ssl.SSLWantReadError)
_MUST_WRITE = (ssl.SSLWantWriteError,)

# What happens to a connection is told by the errors that its user meets, not by the driver on a terminal.
_driver_log = logging.getLogger("stomp.py")
_driver_log.setLevel(logging.CRITICAL + 1)


class StompSocket(Transport):  # type: ignore[misc]  # stomp.py has no types
    """One connection to one server. stomp.py's receiving thread reads, any thread sends whole frames."""

    def __init__(
        self, host: tuple[str, int], *, vhost: str, tls: ssl.SSLContext | None, timeout: float, patience: float
    ) -> None:
        """`timeout` is seconds for connecting; `patience` is seconds without room for more, after which `send` fails:
        the broker is frozen, or blocks producers.
        """
        super().__init__([host], vhost=vhost, auto_decode=False)
        self._host = host
        self._timeout = timeout
        self._patience = patience
        self._tls = tls
        self.override_threading(_started_thread)
        self.was_left = False
        """Whether it was ended from our side."""
        self._sending = threading.Lock()
        self._touching = threading.Lock()
        """An SSL object is for one thread at a time; both sides of the socket are at it only while nothing blocks."""

    def attempt_connection(self) -> None:
        """Connect, once. Raises OSError (a certificate that is refused is one, too)."""
        plain = socket.create_connection(self._host, self._timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            own = plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=self._host[0])
        except OSError:
            plain.close()
            raise
        own.setblocking(False)
        self.socket = own
        self.current_host_and_port = self._host

    def send(self, encoded_frame: bytes) -> None:
        """Send whole frames. Raises OSError, and NotConnectedException once the connection has ended."""
        left = memoryview(encoded_frame)
        with self._sending:
            while left:
                own = self.socket
                if own is None:
                    raise NotConnectedException
                try:
                    with self._touching:
                        left = left[own.send(left) :]
                except (*_MUST_READ, *_MUST_WRITE) as blocked:
                    wanted = select.POLLIN if isinstance(blocked, ssl.SSLWantReadError) else select.POLLOUT
                    if not _wait(own, wanted, self._patience):
                        raise TimeoutError(f"it took nothing for {self._patience:g} s") from blocked

    def receive(self) -> bytes:
        """What has come, as soon as there is something; nothing at the end of the connection."""
        while (own := self.socket) is not None:
            try:
                with self._touching:
                    received: bytes = own.recv(_CHUNK)
            except _MUST_READ:
                _wait(own, select.POLLIN, None)
            except _MUST_WRITE:
                _wait(own, select.POLLOUT, None)
            except OSError:
                break
            else:
                # ActiveMQ holds a small frame back until the one before is acknowledged, for which TCP takes 40 ms.
                if _QUICK_ACK is not None and received:
                    own.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
                return received
        return b""

    def disconnect_socket(self) -> None:
        """End the connection; the receiving thread sees the end, closes the socket and tells the listeners.

        stomp.py calls this as well, when the server sends no heart-beats.
        """
        self.was_left = True
        self.running = False
        own = self.socket
        if own is not None:
            # Not SSLSocket.shutdown, which takes the SSL object away from under the receiving thread.
            with suppress(OSError):
                socket.socket.shutdown(own, socket.SHUT_RDWR)

    def await_end(self, patience: float) -> None:
        """Wait until the receiving thread has ended, after `disconnect_socket`; `patience` seconds at most."""
        thread = self.io_thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)


class StompClient(BaseConnection, Protocol12):  # type: ignore[misc]  # stomp.py has no types
    """stomp.py's STOMP 1.2 over a socket of ours, with heart-beats both ways."""

    def __init__(self, own: StompSocket, heartbeat: float) -> None:
        """`heartbeat`: seconds in which either side promises to send something."""
        self._promised = max(2, round(heartbeat * 1000))
        BaseConnection.__init__(self, own)
        Protocol12.__init__(self, own, (self._promised, self._promised), heart_beat_receive_scale=2)

    def on_connected(self, frame: Any) -> None:
        """Beat twice as often as promised: stomp.py sends at the last moment, for which ActiveMQ is no match."""
        self.heartbeats = (self._promised // 2, self._promised)
        sent, _, expected = frame.headers.get("heart-beat", "0,0").partition(",")
        frame.headers["heart-beat"] = f"{sent},{int(expected) // 2}"
        super().on_connected(frame)


def _started_thread(loop: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=loop, name="penstock-stomp", daemon=True)
    thread.start()
    return thread


def _wait(own: socket.socket, event: int, seconds: float | None) -> bool:
    """Whether the socket became ready (or broke) in time."""
    poll = select.poll()
    try:
        poll.register(own, event)
    except ValueError:
        return True  # closed meanwhile, which whoever waits will see by itself
    return bool(poll.poll(None if seconds is None else seconds * 1000))
