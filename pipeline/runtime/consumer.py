"""The consumer process: its queues' loops, its health, its entry in `instances`, its signals."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from threading import Event, current_thread, main_thread
from types import FrameType

from structlog import get_logger

from pipeline.health import HealthServer
from pipeline.reload import Reloader
from pipeline.runtime.instance import Instance, identify, name_instance
from pipeline.runtime.loops import Loops
from pipeline.runtime.pool import start_fork_server
from pipeline.runtime.spec import find_consumer
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.instances import Pulse, Wish, Wishes

_LOOK = 0.05
"""Seconds between two looks at whether the loops have ended."""

_log = get_logger("runtime")


class Consumer:
    """Serves queues until it is told to stop: by SIGTERM, SIGINT, an operator's wish, or `stop`. SIGHUP reloads.

    Raises BadSettings for a queue that no consumer serves.
    """

    def __init__(self, settings: Settings, queues: Sequence[str]) -> None:
        self._settings = settings
        self._specs = [find_consumer(queue) for queue in dict.fromkeys(queues)]
        self._loops: Loops | None = None
        self._instance: Instance | None = None
        self._reloader = Reloader(settings, "consumer", self._renew)
        self._stopping = Event()
        self._signals = 0

    def run(self) -> int:
        """Serve; the exit code: 0 after a stop, 1 when a loop ended by an error of its own.

        In the main thread it minds signals: the first one stops, the second ends the process at once.
        """
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)
            signal.signal(signal.SIGINT, self._on_signal)
            self._reloader.catch()
        start_fork_server(self._specs)
        database = Database(self._settings.resolved_database_url())
        health = HealthServer(self._settings, self)
        name = name_instance("consumer")
        queues = [spec.queue for spec in self._specs]
        self._loops = loops = Loops(self._specs, database, name)
        identity = identify("consumer", queues=queues, health_url=health.url, instance_id=name)
        self._instance = Instance(database, identity, pulse=self._pulse, obey=self._obey)
        gc.freeze()  # what is loaded by now stays: no collection need look through it
        health.start()
        loops.start(self._settings)
        self._instance.start()
        _log.info("consumer_started", instance=name, queues=" ".join(queues), health=health.url)
        self._watch(loops)
        self._instance.stop()
        health.stop()
        database.close()
        _log.info("consumer_ended", instance=name, failed=loops.failed)
        gc.freeze()  # else the interpreter takes 0.3 s to look through everything once more before it ends
        return 1 if loops.failed else 0

    def stop(self) -> None:
        """Receive no more, finish what is in flight, and let `run` return. May be called from any thread."""
        self._stopping.set()

    def stuck(self) -> list[str]:
        """See `pipeline.health.Checks`."""
        return [] if self._loops is None else self._loops.stuck()

    def unready(self) -> list[str]:
        """See `pipeline.health.Checks`."""
        if self._loops is None or self._instance is None:
            return ["not started yet"]
        return self._instance.unready() + self._loops.unready()

    def _watch(self, loops: Loops) -> None:
        """Until every loop has ended; one that fails or was drained takes the others along, so that a supervisor starts
        all again: else nobody would serve its queue from then on."""
        while loops.tend():
            self._stopping.wait(_LOOK)
            if self._signals or loops.failed or loops.drained:
                self._stopping.set()
            if self._stopping.is_set():
                loops.stop(_LOOK)
            elif loops.settling and self._reloader.due:
                loops.hurry()  # at most two loops of a queue at a time
            else:
                self._reloader.look()

    def _renew(self, settings: Settings) -> None:
        assert self._loops is not None, "nobody looks before there are loops"
        if settings != self._settings:
            self._loops.renew(settings)
            self._settings = settings

    def _pulse(self) -> Pulse:
        pulse = Pulse(state="draining") if self._loops is None else self._loops.pulse()
        return replace(pulse, state="draining") if self._stopping.is_set() else pulse

    def _obey(self, wishes: Wishes) -> None:
        if wishes.own is Wish.DRAIN:
            self.stop()
        if self._loops is not None:
            self._loops.obey(wishes.queues)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Counts and no more: setting an event here could deadlock with the wait that the signal interrupted."""
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + number)
