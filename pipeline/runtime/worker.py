"""The inside of a pool's worker process: opened once, then one group of payloads after the other."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import resource
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import IO

from structlog.contextvars import bind_contextvars

from pipeline.logs import configure_logging, name_node
from pipeline.runtime.execution import Report, execute_group
from pipeline.runtime.heart import Heart, Page
from pipeline.runtime.rounds import Group
from pipeline.runtime.spec import ConsumerSpec, Context, find_consumer
from pipeline.settings import Settings
from pipeline.store.database import Database

_MIB = 1 << 20
_GARBAGE = 50_000
"""Objects made and not freed until a collection looks for cycles among them."""
_LAST_LOOK = 0.9
"""Share of the deadline after which a worker notes down where it is, for the dead letter's traceback."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a worker needs to open itself; `note` is the file where it leaves its last stack, `page` the one into
    which its heart beats."""

    settings: Settings
    queue: str
    instance: str
    deadline: float
    note: Path = Path()
    page: Path = Path()


@dataclass(frozen=True, slots=True)
class _Worker:
    recipe: Recipe
    spec: ConsumerSpec
    context: Context
    note: IO[str]
    heart: Heart


_workers: list[_Worker] = []
"""The one that this process is, once it is open."""


def open_worker(recipe: Recipe) -> None:
    """Make this process a worker: signals, limits, logging, the database."""
    _mind_signals()
    watch = Thread(target=_die_with_consumer, name="consumer-watch", daemon=True)
    watch.start()
    heart = Heart(Page(recipe.page), (watch,))
    heart.start()
    configure_logging(recipe.settings, "consumer")
    name_node(recipe.instance)
    bind_contextvars(queue=recipe.queue)
    spec = find_consumer(recipe.queue)
    context = Context(recipe.settings, Database(recipe.settings.resolved_database_url()), recipe.instance)
    note = recipe.note.open("a")
    faulthandler.enable(note)
    _workers[:] = [_Worker(recipe, spec, context, note, heart)]
    _limit_memory(spec.memory)
    # The modules stay: a collection that need not look through them halves the time that a batch takes to decode. What
    # a batch makes is mostly gone with it by itself: looking for cycles every 700 objects would find none.
    gc.freeze()
    gc.enable()
    gc.set_threshold(_GARBAGE, 20, 50)


def run_group(group: Group) -> Report:
    """Execute one group; called in the worker, by way of the pool."""
    (worker,) = _workers
    if os.fstat(worker.note.fileno()).st_size:
        worker.note.truncate(0)
    faulthandler.dump_traceback_later(worker.recipe.deadline * _LAST_LOOK, file=worker.note)
    database = worker.context.database
    retries = database.retries
    database.take_waited()
    try:
        with worker.heart.working():
            report = execute_group(worker.spec, worker.context, worker.spec.memory, group)
    finally:
        faulthandler.cancel_dump_traceback_later()
    counted = worker.context.tally.take()
    retries = database.retries - retries
    return replace(report, memory=_resident(), retries=retries, waited=database.take_waited(), counted=counted)


def _mind_signals() -> None:
    """A stop, or a reload, is the consumer's business: supervisors and terminals signal whole groups, and what is in
    flight is to be finished. Handlers that do nothing, since children would inherit that a signal is ignored."""

    def stay(_number: int, _frame: FrameType | None) -> None:
        return None

    minded = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in minded:
        signal.signal(number, stay)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, minded)


def _die_with_consumer() -> None:
    """The consumer's end of a pipe closes when it dies, however that happens."""
    consumer = multiprocessing.parent_process()
    assert consumer is not None, "a worker is started by a pool"
    consumer.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _limit_memory(limit: int) -> None:
    """The soft limit alone: what an executor starts may raise it again."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = limit * _MIB
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // _MIB
