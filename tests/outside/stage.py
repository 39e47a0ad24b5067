"""Where disasters are rehearsed: a database, a broker, and real consumer processes of the outside package."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select

from pipeline.runtime.republication import publish_due
from pipeline.settings import Settings
from pipeline.store import tables
from pipeline.store.database import Database
from pipeline.store.instances import InstanceRow, list_instances
from pipeline.store.messages import DeadLetter, DeadLetterFilter, list_dead
from pipeline.transport.port import open_transport
from schemas.messages import Message
from tests.outside.outside.rehearsal import GATE, LEDGER, REACHED, Rehearsal
from tests.waiting import eventually

OUTSIDE = Path(__file__).parent
QUEUE = Rehearsal.queue


def rehearsal(*job_ids: int, faults: dict[int, str] | None = None) -> Message:
    """A message about these ids."""
    return Message.about(Rehearsal(job_ids=job_ids, faults=faults or {}), now=datetime.now(UTC))


class Stage:
    """One test's surroundings. Close it: that ends the consumers by their pids."""

    def __init__(self, folder: Path, broker_url: str, queue: str = QUEUE, **settings: object) -> None:
        self.folder = folder
        self.queue = queue
        values = {"data_dir": folder, "broker_url": broker_url, **settings}
        self.settings = Settings.model_validate(values)
        self._environment = {f"PENSTOCK_{name.upper()}": str(value) for name, value in values.items()}
        self.database = Database(self.settings.resolved_database_url())
        tables.metadata.create_all(self.database.engine)
        self.transport = open_transport(self.settings.resolved_broker_url(), f"stage-{os.getpid()}-{folder.name}")
        self.transport.purge(self.queue)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.log = folder / "consumer.log"

    def start(self, *others: str) -> subprocess.Popen[bytes]:
        """Another consumer process, once it is registered; it serves these queues, too."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(OUTSIDE / "consume.py"), self.queue, *others],
                stderr=log,
                env={**os.environ, **self._environment, "PYTHONPATH": str(OUTSIDE)},
            )
        self._processes.append(process)
        eventually(
            lambda: process.pid in {row.pid for row in self.instances()} or process.poll() is not None, within=90
        )
        assert process.poll() is None, self.log.read_text()
        return process

    def close(self) -> None:
        """End everything, workers that were stopped too: they would not notice that their consumer is gone."""
        workers = self.all_workers()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self.transport.purge(self.queue)
        self.transport.close()
        self.database.close()

    def publish(self, *messages: Message) -> None:
        """Put messages on the queue."""
        self.transport.publish(messages)

    def upkeep(self) -> bool:
        """What the upkeep executor does every second; true when it is done."""
        publish_due(self.database, self.transport)
        return True

    def executed(self) -> Counter[int]:
        """How often each id was executed."""
        ledger = self.folder / LEDGER
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        return Counter(int(word) for line in lines for word in line.split()[1:])

    def wait_for(self, job_ids: Sequence[int], *, within: float = 60.0) -> None:
        """Until all of these were executed."""
        eventually(lambda: set(job_ids) <= set(self.executed()), within=within)

    def open_gate(self) -> None:
        """Let ids with the fault `wait` go on."""
        (self.folder / GATE).touch()

    def gate_reached(self) -> bool:
        """Whether one waits there."""
        return (self.folder / REACHED).exists()

    def dead(self) -> list[DeadLetter]:
        """The dead letters."""
        return self.database.transact(lambda tx: list_dead(tx, DeadLetterFilter()))

    def deferred(self) -> int:
        """How many messages wait for later."""
        count = select(func.count()).select_from(tables.deferred_messages)
        return int(self.database.transact(lambda tx: tx.scalar(count)))

    def instances(self) -> list[InstanceRow]:
        """Who is registered."""
        return self.database.transact(list_instances)

    def empty(self) -> bool:
        """Whether the broker has no message left, ready or in flight."""
        depth = self.transport.depth([self.queue])[self.queue]
        return depth.ready == 0 and depth.in_flight == 0

    def workers_of(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The pool's workers of a consumer: children of its fork server."""
        return [grandchild for child in _children(process.pid) for grandchild in _children(child)]

    def all_workers(self) -> list[int]:
        """Those of all its consumers."""
        return [worker for process in self._processes for worker in self.workers_of(process)]


StageMaker = Callable[..., Stage]


@contextmanager
def stages(folder: Path, broker_url: str) -> Iterator[StageMaker]:
    """A maker of stages, which takes settings; the outside package is known to this process meanwhile."""
    made: list[Stage] = []

    def make(queue: str = QUEUE, **settings: object) -> Stage:
        made.append(Stage(folder, broker_url, queue, **settings))
        return made[-1]

    sys.path.insert(0, str(OUTSIDE))
    try:
        yield make
    finally:
        sys.path.remove(str(OUTSIDE))
        for stage in made:
            stage.close()


def end(process: subprocess.Popen[bytes], signum: int = signal.SIGTERM, *, within: float = 30.0) -> int:
    """Signal a process and wait for it; its exit code."""
    process.send_signal(signum)
    return process.wait(within)


def _children(pid: int) -> list[int]:
    """Those of all its threads: a fork server that is started again is no child of the main one."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (thread / "children").read_text().split())
    return found
