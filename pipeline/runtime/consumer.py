"""The consumer process: its queues' loops, its health, its entry in `instances`, its signals."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Sequence
from threading import Event, current_thread, main_thread
from types import FrameType

from structlog import get_logger

from pipeline.health import HealthServer
from pipeline.runtime.instance import Instance, identify, name_instance
from pipeline.runtime.pool import start_fork_server
from pipeline.runtime.queue_consumer import QueueConsumer
from pipeline.runtime.spec import find_consumer
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.instances import Pulse, Wish, Wishes

_LOOK = 0.05
"""Seconds between two looks at whether the loops have ended."""

_log = get_logger("runtime")


class Consumer:
    """Serves queues until it is told to stop: by SIGTERM, SIGINT, an operator's wish, or `stop`.

    Raises BadSettings for a queue that no consumer serves.
    """

    def __init__(self, settings: Settings, queues: Sequence[str]) -> None:
        self._settings = settings
        self._specs = [find_consumer(queue) for queue in dict.fromkeys(queues)]
        self._loops: list[QueueConsumer] = []
        self._instance: Instance | None = None
        self._stopping = Event()
        self._signals = 0

    def run(self) -> int:
        """Serve; the exit code: 0 after a stop, 1 when a loop ended by an error of its own.

        In the main thread it minds signals: the first one stops, the second ends the process at once.
        """
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)
            signal.signal(signal.SIGINT, self._on_signal)
        start_fork_server(self._specs)
        database = Database(self._settings.resolved_database_url())
        health = HealthServer(self._settings, self)
        name = name_instance("consumer")
        queues = [spec.queue for spec in self._specs]
        self._loops = [QueueConsumer(self._settings, spec, database, name) for spec in self._specs]
        identity = identify("consumer", queues=queues, health_url=health.url, instance_id=name)
        self._instance = Instance(database, identity, pulse=self._pulse, obey=self._obey)
        gc.freeze()  # what is loaded by now stays: no collection need look through it
        health.start()
        for loop in self._loops:
            loop.start()
        self._instance.start()
        _log.info("consumer_started", instance=name, queues=" ".join(queues), health=health.url)
        self._watch()
        self._instance.stop()
        health.stop()
        database.close()
        failed = any(loop.failed for loop in self._loops)
        _log.info("consumer_ended", instance=name, failed=failed)
        gc.freeze()  # else the interpreter takes 0.3 s to look through everything once more before it ends
        return 1 if failed else 0

    def stop(self) -> None:
        """Receive no more, finish what is in flight, and let `run` return. May be called from any thread."""
        self._stopping.set()

    def stuck(self) -> list[str]:
        """See `pipeline.health.Checks`."""
        return [complaint for loop in self._loops for complaint in loop.stuck()]

    def unready(self) -> list[str]:
        """See `pipeline.health.Checks`."""
        own = self._instance.unready() if self._instance is not None else ["not started yet"]
        return own + [complaint for loop in self._loops for complaint in loop.unready()]

    def _watch(self) -> None:
        """Until every loop has ended; one that fails takes the others along, so that a supervisor starts all again."""
        running = list(self._loops)
        while running:
            self._stopping.wait(_LOOK)
            if self._signals or any(loop.failed for loop in self._loops):
                self._stopping.set()
            if self._stopping.is_set():
                for loop in running:
                    loop.stop()
                for loop in running:
                    loop.join(_LOOK)
            running = [loop for loop in running if loop.alive and not loop.leave()]

    def _pulse(self) -> Pulse:
        pulses = [loop.pulse() for loop in self._loops if loop.alive]
        ages = [pulse.oldest_age for pulse in pulses if pulse.oldest_age is not None]
        states = {pulse.state for pulse in pulses} or {"draining"}
        state = "draining" if self._stopping.is_set() else states.pop() if len(states) == 1 else "running"
        loads = tuple(load for pulse in pulses for load in pulse.loads)
        work = tuple(loop.work for loop in self._loops)
        return Pulse(sum(pulse.in_flight for pulse in pulses), max(ages, default=None), state, loads, work)

    def _obey(self, wishes: Wishes) -> None:
        if wishes.own is Wish.DRAIN:
            self.stop()
        for loop in self._loops:
            loop.obey(wishes.queues.get(loop.queue))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Counts and no more: setting an event here could deadlock with the wait that the signal interrupted."""
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + number)
