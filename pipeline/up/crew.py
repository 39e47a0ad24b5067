"""The consumers that `penstock scale` adds to the one that serves all queues: each serves a single queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread

from structlog import get_logger

from pipeline.errors import DatabaseUnavailable
from pipeline.store.database import Database
from pipeline.store.worker_wishes import wished_workers
from pipeline.up.child import Child
from pipeline.up.output import Output

LOOK = 1.0
"""Seconds between two looks at what is wished."""

_log = get_logger("up")


@dataclass(slots=True)
class Wished:
    """What is wished, read in a thread of its own: an outage of the database must not keep `penstock up` from seeing
    who died. It changes nothing either: what was wished last stays."""

    database: Database
    workers: Mapping[str, int] = field(default_factory=dict)
    _ended: Event = field(default_factory=Event, init=False)

    def start(self) -> None:
        """Read, from now on."""
        Thread(target=self._run, name="wished-workers", daemon=True).start()

    def stop(self) -> None:
        """Read no more. May be called twice."""
        self._ended.set()

    def _run(self) -> None:
        failed = False
        while not self._ended.is_set():
            try:
                found = self.database.read(wished_workers)
            except DatabaseUnavailable as error:
                _log.debug("wishes_not_read", error=str(error))  # the other processes say that it is away
            except Exception:  # noqa: BLE001 - the thread's boundary: a look that failed for good would be the last
                if not failed:
                    _log.exception("wishes_not_read")
                failed = True
            else:
                self.workers = {queue: wish.workers for queue, wish in found.items()}
                failed = False
            self._ended.wait(LOOK)


class Crew:
    """Consumers by name, `optimisation-2` and so on: the first of each queue is the one that serves all of them.

    For the main thread alone, as all that starts processes.
    """

    def __init__(
        self, queues: Sequence[str], employ: Callable[[str, str], Child], output: Output, patience: float
    ) -> None:
        """`employ` makes a child of a name that serves a queue."""
        self._queues = queues
        self._output = output
        self._employ = employ
        self.patience = patience
        """Seconds that one which shall end gets."""
        self._children: dict[str, Child] = {}
        self._leaving: dict[str, float] = {}

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    @property
    def serving(self) -> Iterable[Child]:
        """Those that shall run, to be started again when they end."""
        return [child for name, child in self._children.items() if name not in self._leaving]

    def follow(self, workers: Mapping[str, int]) -> None:
        """Have as many as are wished: new ones are there to be started, surplus ones finish their work and end.

        One that is wished again while it ends begins again once it has ended.
        """
        wanted = {
            f"{queue}-{number}": queue for queue in self._queues for number in range(2, workers.get(queue, 1) + 1)
        }
        for name, queue in wanted.items():
            if name not in self._children:
                self._output.say("up", f"{name} is wished and starts")
                self._children[name] = self._employ(name, queue)
        for name, child in self._children.items():
            if name not in wanted and name not in self._leaving:
                self._output.say("up", f"{name} is not wished any more; it finishes what it has and ends")
                child.terminate()
                self._leaving[name] = time.monotonic() + self.patience
        self._see_off()

    def _see_off(self) -> None:
        """Forget those that have ended; those that did not in time are killed."""
        for name, until in list(self._leaving.items()):
            child = self._children[name]
            if not child.runs() or time.monotonic() > until:
                child.end(time.monotonic())
                del self._children[name], self._leaving[name]
