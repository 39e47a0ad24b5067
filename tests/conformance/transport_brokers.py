"""The brokers under test: how to open a transport to each, and how to do harm to it."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Protocol

from pipeline.transport import memory, rq_redis
from pipeline.transport.port import Transport, open_transport
from pipeline.transport.rq_scripts import alive_key
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
QUICK = 1.0
"""Seconds of silence after which a consumer counts as dead in tests that wait for it."""


class Broker(Protocol):
    """A running broker, empty at first."""

    def open(self, consumer: str = "") -> Transport:
        """A transport, closed when the test ends; without a name its consumer is a new one."""

    def receive_and_die(self, queue: str, most: int) -> int:
        """A consumer receives, and dies before it can acknowledge; returns how many it had received."""

    def lapse(self, transport: Transport) -> None:
        """Make the broker believe that the consumer behind this open transport died."""

    def stop(self) -> None:
        """Take the broker down; it forgets everything."""

    def start(self) -> None:
        """Bring it up again."""


class MemoryBroker:
    """The one inside this process; a consumer dies when its transport is dropped without `close`."""

    _names = count(1)

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._name = f"conformance-{next(self._names)}"
        self._broker = memory.memory_broker(self._name)

    def open(self, consumer: str = "") -> Transport:
        transport = open_transport(f"memory://{self._name}", consumer)
        self._stack.callback(transport.close)
        return transport

    def receive_and_die(self, queue: str, most: int) -> int:
        transport = open_transport(f"memory://{self._name}", "victim")
        received = len(transport.receive(queue, most, 5.0))
        del transport
        gc.collect()
        return received

    def lapse(self, transport: Transport) -> None:
        assert isinstance(transport, memory.MemoryTransport)
        self._broker.give_back(transport._handle)

    def stop(self) -> None:
        self._broker.stop()

    def start(self) -> None:
        self._broker.start()


class RedisBroker:
    """A real Redis; a consumer dies by kill -9."""

    _names = count(1)

    def __init__(self, stack: ExitStack, server: RedisServer) -> None:
        self._stack = stack
        self._server = server
        self.url = f"{server.url}?takeover={QUICK}"
        server.flush()

    def open(self, consumer: str = "") -> Transport:
        transport = open_transport(self.url, consumer or f"consumer-{next(self._names)}")
        self._stack.callback(transport.close)
        return transport

    def receive_and_die(self, queue: str, most: int) -> int:
        name = f"victim-{next(self._names)}"
        module = "tests.conformance.transport_victim"
        command = [sys.executable, "-m", module, self.url, name, queue, str(most)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            received = int(victim.stdout.readline())
            victim.kill()
        return received

    def lapse(self, transport: Transport) -> None:
        assert isinstance(transport, rq_redis.RqRedisTransport)
        transport._heartbeat.stop()
        transport._heartbeat.join()
        self._server.ask(f"DEL {alive_key(transport._consumer)}")

    def stop(self) -> None:
        self._server.stop()
        self._stack.callback(self._start_again)

    def start(self) -> None:
        self._server.start()

    def _start_again(self) -> None:
        if not self._server.is_running:
            self._server.start()
