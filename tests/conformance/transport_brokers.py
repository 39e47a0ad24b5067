"""The brokers under test: how to open a transport to each, and how to do harm to it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from pipeline.transport import memory, rq_redis
from pipeline.transport.port import Transport, open_transport
from pipeline.transport.rq_scripts import alive_key
from tests.activemq import ActiveMqServer
from tests.proxy import Proxy
from tests.rabbitmq import RabbitMqServer
from tests.servers import RedisServer, Server
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
QUICK = 1.0
"""Seconds of silence after which a consumer of Redis counts as dead in tests that wait for it."""

_numbers = count(1)


class Broker(Protocol):
    """A running broker with two queues of the test's own, which are empty at first."""

    queue: str
    other: str
    soon: float
    """Seconds within which what is in a queue has reached a consumer that asks for it."""

    def open(self, consumer: str = "", **options: str) -> Transport:
        """A transport, closed when the test ends; without a name its consumer is a new one."""

    def receive_and_die(self, most: int) -> int:
        """A consumer receives so many, and dies before it can acknowledge; returns how many it had received."""


class StoppableBroker(Broker, Protocol):
    """One that a test can take down."""

    def lapse(self, transport: Transport) -> None:
        """Make the broker believe that the consumer behind this open transport died."""

    def mend(self, transport: Transport) -> None:
        """Let a transport that lapsed reach the broker again."""

    def stop(self) -> None:
        """Take the broker down: nobody reaches it. One that is not durable forgets everything."""

    def start(self) -> None:
        """Bring it up again."""


class MemoryBroker:
    """The one inside this process; a consumer dies when its transport is dropped without `close`."""

    soon = 0.05

    def __init__(self, stack: ExitStack) -> None:
        self.queue, self.other = _queue_names()
        self._stack = stack
        self._name = f"conformance-{next(_numbers)}"
        self._broker = memory.memory_broker(self._name)

    def open(self, consumer: str = "", **options: str) -> Transport:
        del options
        transport = open_transport(f"memory://{self._name}", consumer)
        self._stack.callback(transport.close)
        return transport

    def receive_and_die(self, most: int) -> int:
        return _receive_and_drop(open_transport(f"memory://{self._name}", "victim"), self.queue, most)

    def lapse(self, transport: Transport) -> None:
        assert isinstance(transport, memory.MemoryTransport)
        self._broker.give_back(transport._handle)

    def mend(self, transport: Transport) -> None:
        """It never lost it."""

    def stop(self) -> None:
        self._broker.stop()

    def start(self) -> None:
        self._broker.start()


class OutsideBroker:
    """What a URL without a port leads to: it lives in this process, and nobody knows how to take it down."""

    soon = 0.05

    def __init__(self, stack: ExitStack, url: str) -> None:
        self.queue, self.other = _queue_names()
        self._stack = stack
        self._url = url

    def open(self, consumer: str = "", **options: str) -> Transport:
        del options
        transport = open_transport(self._url, consumer or f"consumer-{next(_numbers)}")
        self._stack.callback(transport.close)
        return transport

    def receive_and_die(self, most: int) -> int:
        return _receive_and_drop(open_transport(self._url, f"victim-{next(_numbers)}"), self.queue, most)


class WiredBroker:
    """One behind TCP. Each transport reaches it through a proxy of its own; a consumer dies by kill -9.

    Down means that the proxies refuse: a heavy server takes ten seconds to restart, which `restart` does really.
    """

    soon = 0.4
    impatient: Mapping[str, str] = {}
    """Options of the URL that make waiting for an answer short."""

    def __init__(
        self, stack: ExitStack, url: Callable[[int], str], port: int, *, host: str = "127.0.0.1", join: str = "?"
    ) -> None:
        """`url` makes the URL from a port; `join` is what goes before a further option of it."""
        self.queue, self.other = _queue_names()
        self._stack = stack
        self._url = url
        self._port, self._host, self._join = port, host, join
        self._proxies: list[Proxy] = []
        self._wires: dict[int, Proxy] = {}

    def proxy(self, port: int) -> Proxy:
        """A way to a port of the broker that `stop` closes, too."""
        proxy = self._stack.enter_context(Proxy(port, host=self._host))
        self._proxies.append(proxy)
        return proxy

    def open(self, consumer: str = "", **options: str) -> Transport:
        proxy = self.proxy(self._port)
        further = "&".join(f"{name}={value}" for name, value in options.items())
        url = self._url(proxy.port) + (self._join + further if further else "")
        transport = open_transport(url, consumer or f"consumer-{next(_numbers)}")
        self._stack.callback(transport.close)
        self._wires[id(transport)] = proxy
        return transport

    def wire(self, transport: Transport) -> Proxy:
        """What this transport is connected through."""
        return self._wires[id(transport)]

    @contextmanager
    def victim(self, *batches: int) -> Iterator[list[list[int]]]:
        """The numbers that a consumer in another process received, a list for each batch; it is killed in the end.

        It acknowledges every batch but the last one.
        """
        module = "tests.conformance.transport_victim"
        arguments = [self._url(self._port), f"victim-{next(_numbers)}", self.queue, *map(str, batches)]
        with subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                yield [json.loads(process.stdout.readline()) for _ in batches]
            finally:
                process.kill()

    def receive_and_die(self, most: int) -> int:
        with self.victim(most) as received:
            return len(received[0])

    def lapse(self, transport: Transport) -> None:
        self.wire(transport).refuse()

    def mend(self, transport: Transport) -> None:
        self.wire(transport).accept()

    def stop(self) -> None:
        for proxy in self._proxies:
            proxy.refuse()

    def start(self) -> None:
        for proxy in self._proxies:
            proxy.accept()


class ServerBroker(WiredBroker):
    """One whose process the tests have started."""

    server: Server

    def restart(self) -> None:
        """Kill it and start it again: confirmed and kept is what is on its disk."""
        self.server.kill()
        self.server.start()


class RedisBroker(ServerBroker):
    """A Redis that keeps nothing when it goes down; it knows by a heartbeat who is alive."""

    soon = 0.05
    impatient: Mapping[str, str] = {"socket_timeout": "1"}

    def __init__(self, stack: ExitStack, server: RedisServer) -> None:
        super().__init__(stack, lambda port: f"redis://127.0.0.1:{port}/0?takeover={QUICK}", server.port, join="&")
        self.server: RedisServer = server
        server.flush()

    def lapse(self, transport: Transport) -> None:
        assert isinstance(transport, rq_redis.RqRedisTransport)
        transport._heartbeat.stop()
        transport._heartbeat.join()
        self.server.ask(f"DEL {alive_key(transport._consumer)}")

    def stop(self) -> None:
        super().stop()
        self.server.flush()


class RabbitMqBroker(ServerBroker):
    """A vhost of a RabbitMQ, by either protocol, with the management API for the counts."""

    impatient: Mapping[str, str] = {"heartbeat": "1"}

    def __init__(self, stack: ExitStack, server: RabbitMqServer, scheme: str) -> None:
        vhost = server.new_vhost()
        stack.callback(server.drop_vhost, vhost)
        super().__init__(stack, self._url_of, server.port if scheme == "amqp" else server.stomp_port, join="&")
        self.server = server
        self._scheme, self._vhost = scheme, vhost
        self._management = self.proxy(server.management_port).port

    def restart(self) -> None:
        # It writes down up to two seconds late which queues there are: younger ones would be gone or empty afterwards.
        self._appears_in("data/*/LATEST.LOG", "data/*/rabbit_durable_queue.*")
        if self._scheme == "amqp":
            self._appears_in("data/*/quorum/*/names.dets")
        super().restart()

    def _appears_in(self, *patterns: str) -> None:
        """Wait until the queue's name is in one of these files of the server."""

        def written() -> bool:
            files = [file for pattern in patterns for file in self.server.folder.glob(pattern)]
            return any(self.queue.encode() in file.read_bytes() for file in files)

        eventually(written)

    def _url_of(self, port: int) -> str:
        counts = f"management=http://guest:guest@127.0.0.1:{self._management}"
        return f"{self._scheme}://guest:guest@127.0.0.1:{port}/{self._vhost}?{counts}"


class ActiveMqBroker(ServerBroker):
    """An ActiveMQ Classic, by STOMP."""

    impatient: Mapping[str, str] = {"heartbeat": "1"}

    def __init__(self, stack: ExitStack, server: ActiveMqServer) -> None:
        super().__init__(stack, lambda port: f"stomp://guest:guest@127.0.0.1:{port}", server.port)
        self.server = server


def is_wired(url: str) -> bool:
    """Whether what a URL leads to is behind TCP."""
    return urlsplit(url).port is not None


def outside_broker(stack: ExitStack, url: str) -> OutsideBroker | WiredBroker:
    """The broker of somebody else's transport."""
    split = urlsplit(url)
    if split.port is None:
        return OutsideBroker(stack, url)
    login, at, _ = split.netloc.rpartition("@")

    def through(port: int) -> str:
        return split._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()

    return WiredBroker(stack, through, split.port, host=split.hostname or "", join="&" if split.query else "?")


def _queue_names() -> tuple[str, str]:
    number = next(_numbers)
    return f"optimisation-{number}", f"matching-{number}"


def _receive_and_drop(transport: Transport, queue: str, most: int) -> int:
    received = len(transport.receive(queue, most, 5.0))
    del transport
    gc.collect()
    return received
