"""A worker's heart: it beats into a page that the consumer reads, and tells whether the executor moves.

A worker that was stopped, or that never lets another of its threads have a turn, beats no more, however long its batch
may take. One whose executor deadlocks goes on beating. That is told by the kernel: no thread of the process has run
since the last beat, and each waits for a lock. Who waits for a server, a file or a child waits for something else, so a
batch that waits for a batch system never looks like one. Where the kernel names no waits nobody is called
deadlocked, and the deadline of the batch ends it. So it is in a worker that keeps a thread which waits for something
else (fsspec's for S3, a round whose batch system does not answer): the executor may wait for just that one.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

INTERVAL = 1.0
"""Seconds between two beats."""
_LAYOUT = struct.Struct("=3d")
_TASKS = Path("/proc/self/task")
_LOCK_WAIT = "futex"
"""How the names of the kernel's functions begin in which a thread waits for a lock."""

Marks = dict[str, str]
"""How often each thread had left its processor, by its id."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What a worker's page says, by the machine's monotonic clock; 0 for what is not so."""

    beat: float = 0.0
    """The last one; 0 before the first."""
    idle_since: float = 0.0
    """When it was last done with a batch, or ready for the first; 0 while it executes one."""
    still_since: float = 0.0
    """Since when every thread of the executor has waited for a lock."""


class Page:
    """The page of one worker, a file that its consumer makes and both map. Raises OSError where there is no room."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            os.posix_fallocate(file.fileno(), 0, mmap.PAGESIZE)  # else a disk without room would kill whoever writes
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def read(self) -> Signs:
        """What it says now."""
        return Signs(*_LAYOUT.unpack_from(self._memory))

    def write(self, signs: Signs) -> None:
        """Let it say this."""
        _LAYOUT.pack_into(self._memory, 0, signs.beat, signs.idle_since, signs.still_since)


class Heart:
    """Beats in a thread of its own from `start` on; `others` are threads that are not the executor's either."""

    def __init__(self, page: Page, others: tuple[Thread, ...] = ()) -> None:
        self._page = page
        self._idle_since = time.monotonic()
        self._marks: Marks | None = None
        self._still_since = 0.0
        self._thread = Thread(target=self._run, name="heart", daemon=True)
        self._others = others

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @contextmanager
    def working(self) -> Iterator[None]:
        """A batch is executed."""
        self._marks, self._still_since, self._idle_since = None, 0.0, 0.0
        self._tell()
        try:
            yield
        finally:
            self._idle_since = time.monotonic()
            self._tell()

    def _run(self) -> None:
        pause = Event()
        while True:
            with suppress(MemoryError):  # the limit is the whole worker's: who reached it fails, and the heart beats on
                self._look()
                self._tell()
                pause.wait(INTERVAL)

    def _look(self) -> None:
        """Whether anything has moved since the last look."""
        before, self._marks = self._marks, None if self._idle_since else self._marks_of_locked()
        if self._marks is None or self._marks != before:
            self._still_since = 0.0
        elif not self._still_since:
            self._still_since = time.monotonic() - INTERVAL

    def _tell(self) -> None:
        idle_since = self._idle_since
        self._page.write(Signs(time.monotonic(), idle_since, 0.0 if idle_since else self._still_since))

    def _marks_of_locked(self) -> Marks | None:
        """The threads of the executor; None when one of them does not wait for a lock, or that can't be seen."""
        own = {str(thread.native_id) for thread in (self._thread, *self._others)}
        marks: Marks = {}
        with suppress(OSError, MemoryError):
            for task in sorted(_TASKS.iterdir()):
                if task.name in own:
                    continue
                if not (task / "wchan").read_text().startswith(_LOCK_WAIT):
                    return None
                status = (task / "status").read_text()
                marks[task.name] = status[status.find("voluntary_ctxt_switches") :]
            return marks
        return None  # a thread ended just now, or the executor has used up what it takes to look
