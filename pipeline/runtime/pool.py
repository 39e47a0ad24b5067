"""A pool's slot: one worker process behind a pebble pool of its own, rebuilt when it breaks.

One pool per worker, since the death of an idle worker breaks a shared pebble pool for good.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from pebble import CONSTS, ProcessExpired, ProcessPool
from structlog import get_logger

from pipeline.metrics import WORKERS_REPLACED
from pipeline.runtime.execution import Report
from pipeline.runtime.rounds import Failure, Group
from pipeline.runtime.spec import ConsumerSpec
from pipeline.runtime.worker import Recipe, open_worker, run_group

_PRELOAD = ("pipeline.runtime.preloading", "__main__", "pipeline.runtime.worker", "MySQLdb")
_KILL_AFTER = 0.1
"""Seconds between SIGTERM, which workers mind not, and SIGKILL."""
_MEMORY_SHARE = 0.8
"""A worker whose resident size is over this share of its limit is replaced between batches."""

_log = get_logger("pool")


def start_fork_server(specs: Iterable[ConsumerSpec]) -> None:
    """Start the process that workers are forked from, with all modules loaded; later calls change nothing.

    It is started with SIGTERM blocked: a supervisor that signals the whole group must not take the
    workers in flight with it. It ends when this process does.
    """
    modules = dict.fromkeys([*_PRELOAD, *(name for spec in specs for name in spec.preload)])
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Slot:
    """One worker. `finished` is called with the slot, from another thread, whenever `take` has something to give."""

    def __init__(self, recipe: Recipe, spec: ConsumerSpec, finished: Callable[[Slot], None]) -> None:
        CONSTS.term_timeout = _KILL_AFTER
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-slot-")
        self._recipe = replace(recipe, note=Path(self._folder.name) / "stack")
        self._spec = spec
        self._finished = finished
        self._running: tuple[Group, Future[Report]] | None = None
        self._since = 0.0
        self._broke = False
        self._stopped = False
        self._pool = self._new_pool()

    @property
    def busy(self) -> bool:
        """Whether a group runs, or its report was not taken yet."""
        return self._running is not None

    def seconds(self) -> float:
        """How long the group has been running."""
        return time.monotonic() - self._since

    def overdue(self, by: float) -> bool:
        """Whether a group runs since `by` seconds more than the deadline: then the pool does not answer."""
        running = self._running
        return running is not None and not running[1].done() and self.seconds() > self._recipe.deadline + by

    def run(self, group: Group) -> None:
        """Run a group; the slot must not be busy. After `stop` nothing is run."""
        if self._stopped:
            return
        self._since = time.monotonic()
        self._broke = False
        self._schedule(group)

    def take(self) -> Report | None:
        """What came of the group; None when it had to be started again, since the worker died as it began."""
        assert self._running is not None
        group, future = self._running
        try:
            report = future.result()
        except BrokenProcessPool:
            self._replace("died")
            if not self._broke:
                self._broke = True
                self._schedule(group)
                return None
            report = Report(Failure("worker crashed", "crashed", self._stack()))
        except TimeoutError:
            report = Report(Failure(f"deadline of {self._recipe.deadline:g} s passed", "deadline", self._stack()))
        except ProcessExpired as error:
            report = Report(Failure(_obituary(error.exitcode), "crashed", self._stack()))
        except Exception as error:  # noqa: BLE001 - whatever pebble can't carry over, such as outcomes that don't pickle
            report = Report(Failure(f"the outcomes could not be handed over: {error!r}"))
        self._running = None
        if report.memory > self._spec.memory * _MEMORY_SHARE:
            self._replace("memory")
        return report

    def tend(self) -> None:
        """Replace a worker that died while it had nothing to do. Call it now and then."""
        if not self._stopped and not self.busy and not self._pool.active:
            self._replace("died")

    def stop(self) -> None:
        """Give up what runs and take no more. Returns at once; `join` waits. May be called twice, from any thread."""
        self._stopped = True
        self._pool.stop()

    def join(self) -> None:
        """Stop, and wait until the worker is gone: about 0.2 s."""
        self.stop()
        self._pool.join()
        self._folder.cleanup()

    def _schedule(self, group: Group) -> None:
        self.tend()
        try:
            future = self._pool.schedule(run_group, args=(group,), timeout=self._recipe.deadline)
        except RuntimeError:  # it broke just now
            self._replace("died")
            future = self._pool.schedule(run_group, args=(group,), timeout=self._recipe.deadline)
        self._running = (group, future)
        future.add_done_callback(lambda _done: self._finished(self))

    def _new_pool(self) -> ProcessPool:
        pool = ProcessPool(
            max_workers=1,
            max_tasks=self._spec.recycle_after,
            initializer=open_worker,
            initargs=(self._recipe,),
            context=multiprocessing.get_context("forkserver"),
        )
        assert pool.active  # asking starts it
        return pool

    def _replace(self, cause: str) -> None:
        _log.info("worker_replaced", queue=self._spec.queue, cause=cause)
        WORKERS_REPLACED.labels(self._spec.queue, cause).inc()
        self._pool.stop()
        self._pool.join()
        self._pool = self._new_pool()

    def _stack(self) -> str | None:
        """Where the worker last was, by its own account."""
        try:
            return self._recipe.note.read_text(errors="replace") or None
        except FileNotFoundError:
            return None


def _obituary(exitcode: int) -> str:
    return f"worker crashed (signal {-exitcode})" if exitcode < 0 else f"worker ended (exit code {exitcode})"
