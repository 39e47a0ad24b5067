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
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from pebble import CONSTS, ProcessExpired, ProcessPool
from structlog import get_logger

from pipeline.errors import BadSettings
from pipeline.metrics import WORKERS_REPLACED
from pipeline.runtime.execution import Report
from pipeline.runtime.heart import Page, Signs
from pipeline.runtime.rounds import Failure, Group
from pipeline.runtime.spec import ConsumerSpec
from pipeline.runtime.worker import Recipe, open_worker, run_group
from pipeline.turns import STILL_LIMIT

_PRELOAD = ("pipeline.runtime.preloading", "__main__", "pipeline.runtime.worker", "MySQLdb")
_KILL_AFTER = 0.1
"""Seconds between SIGTERM, which workers mind not, and SIGKILL."""
_MEMORY_SHARE = 0.8
"""A worker whose resident size is over this share of its limit is replaced between batches."""
_POOL_GRACE = 10.0
"""Seconds past its deadline after which a worker that still runs shows that its pool does not answer."""
_MEND_AFTER = 2 * STILL_LIMIT
"""Seconds without a beat after which a worker that began nothing is replaced. One at work is ended by the deadline."""

_log = get_logger("pool")


def start_fork_server(specs: Iterable[ConsumerSpec]) -> None:
    """Start the process that workers are forked from, with all modules loaded; later calls change nothing.

    It is started with SIGTERM and SIGHUP blocked: a supervisor that signals the whole group must not take
    the workers in flight with it. It ends when this process does.
    """
    modules = dict.fromkeys([*_PRELOAD, *(name for spec in specs for name in spec.preload)])
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # it sets SIGTERM free again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Slot:
    """One worker. `finished` is called with the slot, from another thread, whenever `take` has something to give.

    Raises BadSettings when there is no room for its files, or the machine gives no further process.
    """

    def __init__(self, recipe: Recipe, spec: ConsumerSpec, finished: Callable[[Slot], None]) -> None:
        CONSTS.term_timeout = _KILL_AFTER
        self._folder, self._recipe, self._page = _open_page(recipe)
        self._spec = spec
        self._finished = finished
        self._running: tuple[Group, Future[Report]] | None = None
        self._since = 0.0
        self._broke = False
        self._stopped = False
        self._opened = 0.0
        try:
            self._pool = self._new_pool()
        except (OSError, RuntimeError) as error:
            self._folder.cleanup()
            raise BadSettings(
                f"PENSTOCK_CONSUMER_SLOTS: no further worker can be started ({error.__cause__ or error}); ask for "
                "fewer, or raise the limits of this process"
            ) from error

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

    def complaint(self, limit: float = STILL_LIMIT) -> str | None:
        """Why the worker makes no progress, for over so many seconds; None when it does, however long its batch takes.

        May be called from any thread.
        """
        if not self._stopped and (silent := self._silence()) > limit:
            return f"a worker has not answered for {silent:.0f} s"
        running = self._running
        return None if self._stopped or running is None or running[1].done() else self._complaint_of_batch(limit)

    def run(self, group: Group) -> None:
        """Run a group; the slot must not be busy. After `stop` nothing is run."""
        if self._stopped:
            return
        self._since = time.monotonic()
        self._broke = False
        self._schedule(group)

    def take(self) -> Report | None:
        """What came of the group; None when it had to be started again, since the worker died as it began."""
        if self._running is None or not self._running[1].done():
            return None  # told of a try that was given up meanwhile
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
        """Replace a worker that died, or fell silent, before it began what it has to do. Call it now and then."""
        if self._stopped:
            return
        if self._running is not None:
            self._tend_to_batch(*self._running)
        elif not self._pool.active:
            self._replace("died")
        elif self._silence() > _MEND_AFTER:
            self._replace("silent")

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

    def _tend_to_batch(self, group: Group, future: Future[Report]) -> None:
        """The pool counts a deadline from the moment at which the worker took the group, and by the time of day."""
        began = future.running()
        never_taken = not began and self._silence() > _MEND_AFTER
        if future.done() or not (never_taken or self.overdue(_POOL_GRACE)):
            return
        self._running = None
        self._replace("silent")
        if began:
            over: Future[Report] = Future()
            over.set_exception(TimeoutError())
            self._running = (group, over)
            self._finished(self)
        else:
            self._since = time.monotonic()
            self._schedule(group)

    def _complaint_of_batch(self, limit: float) -> str | None:
        now, signs = time.monotonic(), self._page.read()
        if self.overdue(_POOL_GRACE):
            return f"a worker is past its deadline of {self._recipe.deadline:g} s"
        if signs.idle_since and (waits := now - max(signs.idle_since, self._since)) > limit:
            return f"a batch has waited for an idle worker for {waits:.0f} s"
        if signs.still_since and (still := now - signs.still_since) > limit:
            return f"an executor has not moved for {still:.0f} s: all of its threads wait for locks"
        return None

    def _silence(self) -> float:
        """Seconds since the worker's last beat."""
        return time.monotonic() - max(self._page.read().beat, self._opened)

    def _new_pool(self) -> ProcessPool:
        self._opened = time.monotonic()
        self._page.write(Signs())
        pool = ProcessPool(
            max_workers=1,
            max_tasks=self._spec.recycle_after,
            initializer=open_worker,
            initargs=(self._recipe,),
            context=multiprocessing.get_context("forkserver"),
        )
        try:
            assert pool.active  # asking starts it
        except Exception:
            pool.stop()
            pool.join()
            raise
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


def _open_page(recipe: Recipe) -> tuple[tempfile.TemporaryDirectory[str], Recipe, Page]:
    """A worker's page, in a folder of its own, and the recipe that names both."""
    with ExitStack() as undone:
        try:
            folder = tempfile.TemporaryDirectory(prefix="penstock-slot-")
            undone.callback(folder.cleanup)
            recipe = replace(recipe, note=Path(folder.name) / "stack", page=Path(folder.name) / "heart")
            page = Page(recipe.page)
        except OSError as error:
            raise BadSettings(
                f"TMPDIR: a worker's files find no room in {tempfile.tempdir} ({error}); make some, or name another"
            ) from error
        undone.pop_all()
    return folder, recipe, page


def _obituary(exitcode: int) -> str:
    return f"worker crashed (signal {-exitcode})" if exitcode < 0 else f"worker ended (exit code {exitcode})"
