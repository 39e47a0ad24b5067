"""A TCP proxy in front of a real server, through which a test does harm to connections at the byte that it chooses.

    with Proxy(server.port) as proxy:
        transport = open_transport(f"redis://127.0.0.1:{proxy.port}/0", "consumer")
        cut = proxy.cut_after(Way.TO_SERVER, 10_000)
        with pytest.raises(BrokerUnavailable):
            transport.publish(messages)
        assert cut.wait(5.0)

Everything happens in one thread of its own, in an event loop; the methods may be called from any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
_CHUNK = 65_536
_PATIENCE = 10.0
"""Seconds that the proxy's thread may take for what it is told: it never blocks."""


class Way(Enum):
    """In which direction bytes flow."""

    TO_SERVER = auto()
    TO_CLIENT = auto()


@dataclass(eq=False, slots=True)
class _Cut:
    """An order to cut all connections in the middle of what flows one way."""

    way: Way
    left: int
    """Bytes, or occurrences of `pattern`, that still pass."""
    pattern: bytes = b""
    happened: threading.Event = field(default_factory=threading.Event)

    def passing(self, chunk: bytes, before: bytes) -> int | None:
        """How many bytes of `chunk` may still pass, None for all; `before` is what passed last of this connection."""
        if not self.pattern:
            self.left -= len(chunk)
            return self.left + len(chunk) if self.left < 0 else None
        seen = (before[-(len(self.pattern) - 1) :] if len(self.pattern) > 1 else b"") + chunk
        start = 0
        while (found := seen.find(self.pattern, start)) >= 0:
            if self.left == 0:
                return max(0, found - (len(seen) - len(chunk)))
            self.left -= 1
            start = found + len(self.pattern)
        return None


class Proxy:
    """Listens on `port` of 127.0.0.1 and forwards to `target_port` of `host`. A context manager that leaves nothing.

    With `tls` (a server's context) it speaks TLS to clients, and plainly to the server. `delay` is seconds that each
    chunk of up to 64 KiB waits before it goes on, either way.
    """

    def __init__(
        self, target_port: int, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, delay: float = 0.0
    ) -> None:
        self.target = (host, target_port)
        self.delay = delay
        self.passed: Counter[Way] = Counter()
        """Bytes that went through."""
        self.chunks: Counter[Way] = Counter()
        """How many times something went through: about the segments."""
        self.connections = 0
        """How many were accepted so far."""
        self._tls = tls
        # Bound and never listening: it keeps the port from everybody else while the listener is closed.
        self._claim = _bound(0)
        self.port: int = self._claim.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._flowing = asyncio.Event()
        self._listener: socket.socket | None = None
        self._links: dict[asyncio.Task[Any], list[asyncio.StreamWriter]] = {}
        self._cuts: list[_Cut] = []
        self._cutting: set[asyncio.Task[None]] = set()

    def refuse(self) -> None:
        """The server is away: every connection is cut, and new ones are refused. May be called twice."""
        self._do(self._refuse())

    def accept(self) -> None:
        """It is back. May be called twice."""
        self._do(self._accept())

    def cut(self) -> None:
        """Cut every connection now; new ones are accepted."""
        self._do(self._cut_links())

    def cut_after(self, way: Way, n_bytes: int) -> threading.Event:
        """Once `n_bytes` more have passed this way (over all connections), cut every connection, once.

        The event is set when it has happened.
        """
        return self._do(self._add(_Cut(way, n_bytes)))

    def cut_when(self, way: Way, pattern: bytes, *, after: int = 0) -> threading.Event:
        """When `pattern` comes this way once more than `after` times, cut every connection before it has passed, once.

        The event is set when it has happened.
        """
        return self._do(self._add(_Cut(way, after, pattern)))

    def stall(self) -> None:
        """Accept connections and whatever is sent, and forward nothing."""
        self._do(self._set_flowing(on=False))

    def flow(self) -> None:
        """Forward again, what has been held up first. May be called twice."""
        self._do(self._set_flowing(on=True))

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return self._do(self._count())

    def __enter__(self) -> Self:
        self._thread.start()
        self.flow()
        self.accept()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._claim.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_PATIENCE)

    async def _add(self, cut: _Cut) -> threading.Event:
        self._cuts.append(cut)
        return cut.happened

    async def _set_flowing(self, *, on: bool) -> None:
        if on:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _count(self) -> int:
        return len(self._links)

    async def _accept(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen()
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept_one, self._listener)

    async def _refuse(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()
        await self._cut_links()
        await asyncio.gather(*self._cutting)
        self._cutting.clear()

    def _accept_one(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has given up
            accepted, _ = listener.accept()
            self.connections += 1
            link = self._loop.create_task(self._link(accepted))
            self._links[link] = []
            link.add_done_callback(partial(self._forget, accepted))

    def _forget(self, accepted: socket.socket, link: asyncio.Task[Any]) -> None:
        accepted.close()
        del self._links[link]

    async def _cut_links(self) -> None:
        links, own = dict(self._links), asyncio.current_task()
        for task, writers in links.items():
            for writer in writers:
                writer.transport.abort()
            if task is not own:
                task.cancel()
        await asyncio.gather(*(task for task in links if task is not own), return_exceptions=True)
        # Transports close their sockets in the next turn of the loop.
        await asyncio.sleep(0)

    async def _link(self, accepted: socket.socket) -> None:
        """One connection, until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        writers = self._links[task]
        try:
            reader, client = await self._streams(accepted)
            writers.append(client)
            answers, server = await self._reach()
            writers.append(server)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(Way.TO_SERVER, reader, server))
                pumps.create_task(self._pump(Way.TO_CLIENT, answers, client))
        except* (OSError, asyncio.CancelledError):
            pass  # the link is over either way, and what it was for is the test's business
        finally:
            for writer in writers:
                writer.transport.abort()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.target)

    async def _streams(self, accepted: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._tls)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("sslcontext") is None:
            # Not with TLS, where asyncio would not say that it is ready for more before something comes the other way.
            writer.transport.set_write_buffer_limits(0)
        last = b""
        while chunk := await reader.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._flowing.wait()
            due, passing = self._due(way, chunk, last)
            writer.write(chunk[:passing])
            await writer.drain()
            self.passed[way] += len(chunk[:passing])
            self.chunks[way] += 1
            last = (last + chunk)[-256:]
            if due is not None:
                self._cutting.add(self._loop.create_task(self._carry_out(due)))
                return
        with contextlib.suppress(OSError):
            writer.write_eof() if writer.can_write_eof() else writer.close()

    def _due(self, way: Way, chunk: bytes, last: bytes) -> tuple[_Cut | None, int]:
        """The order that this chunk fulfils, and how much of it passes."""
        for cut in self._cuts:
            passing = cut.passing(chunk, last) if cut.way is way else None
            if passing is not None:
                self._cuts.remove(cut)
                return cut, passing
        return None, len(chunk)

    async def _carry_out(self, cut: _Cut) -> None:
        await self._cut_links()
        cut.happened.set()


class Balancer(Proxy):
    """Forwards each connection to the next of several servers that accepts it, as an orchestrator's service does."""

    def __init__(self, *target_ports: int) -> None:
        super().__init__(target_ports[0])
        self._turn = itertools.cycle([("127.0.0.1", port) for port in target_ports])
        self._many = len(target_ports)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(self._many - 1):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(*next(self._turn))
        return await asyncio.open_connection(*next(self._turn))


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
