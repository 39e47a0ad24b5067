"""A consumer that rehearses disasters: it writes down the ids that it executed, but for those with a fault.

The ledger and the gate are files in `data_dir`: a line of ids for each batch, and what `wait` waits for.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Self

from pipeline.errors import StorageUnavailable
from pipeline.runtime.spec import ConsumerSpec, Context
from schemas.messages import Body, Ids, Message
from schemas.outcomes import Backoff, Dead, Done, Outcome, Retry

LEDGER = "ledger"
GATE = "gate"
REACHED = "reached"

_leaked: list[bytearray] = []


class Rehearsal(Body):
    """Ids to write down, and what shall go wrong with some of them."""

    queue: ClassVar[str] = "rehearsal"
    rows: ClassVar[str | None] = "jobs"
    job_ids: Ids
    faults: Mapping[int, str] = {}

    def ids(self) -> tuple[int, ...]:
        return self.job_ids

    def with_ids(self, ids: Sequence[int]) -> Self:
        while "stick" in self.faults.values():  # the consumer halves it: a loop that never turns again, and is busy
            sum(range(1_000))
        faults = {number: fault for number, fault in self.faults.items() if number in ids}
        return type(self)(job_ids=tuple(ids), faults=faults)


def execute(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """First whatever goes wrong, then one line in the ledger: a batch that fails has written nothing."""
    bodies = [message.body for message in messages]
    rehearsals = [body for body in bodies if isinstance(body, Rehearsal)]
    folder = context.settings.resolved_data_dir()
    for rehearsal in rehearsals:
        for fault in rehearsal.faults.values():
            _suffer(fault, folder)
    good = [rehearsal for rehearsal in rehearsals if not set(rehearsal.faults.values()) & {"dead", "retry"}]
    _write_down(folder, [number for rehearsal in good for number in rehearsal.job_ids])
    return [_outcome(rehearsal) for rehearsal in rehearsals]


def _outcome(rehearsal: Rehearsal) -> Outcome:
    faults = set(rehearsal.faults.values())
    if "dead" in faults:
        return Dead("said to be hopeless")
    if "retry" in faults:
        return Retry("said to be early", after=0.0)
    following = [number for number, fault in rehearsal.faults.items() if fault == "follow"]
    if following:
        body = Rehearsal(job_ids=tuple(number + 1_000_000 for number in following))
        return Done((Message.about(body, now=datetime.now(UTC)),))
    return Done()


def _suffer(fault: str, folder: Path) -> None:
    match fault:
        case "segfault":
            ctypes.string_at(0)
        case "sleep":
            threading.Event().wait(600)
        case "memory":
            hoard = []
            while True:
                hoard.append(bytearray(16 << 20))
        case "grow":
            _leaked.extend(bytearray(b"x" * (1 << 20)) for _ in range(380))
        case "raise" | "stick":
            raise LookupError("there is no such place")
        case "outside":
            raise StorageUnavailable("the storage is on fire")
        case "kill":
            consumer = multiprocessing.parent_process()
            assert consumer is not None
            assert consumer.pid is not None
            os.kill(consumer.pid, signal.SIGKILL)
            threading.Event().wait(60)
        case _:
            _tarry(fault, folder)


def _tarry(fault: str, folder: Path) -> None:
    """What takes long, or for ever."""
    match fault:
        case "deadlock":
            lock = threading.Lock()
            lock.acquire()
            threading.Thread(target=lock.acquire, daemon=True).start()
            lock.acquire()
        case "read":  # as from a server that takes its time
            os.read(os.pipe()[0], 1)
        case "spin":
            while not (folder / GATE).exists():
                sum(range(1_000_000))
        case "wait":
            (folder / REACHED).touch()
            while not (folder / GATE).exists():
                threading.Event().wait(0.02)


def _write_down(folder: Path, numbers: Sequence[int]) -> None:
    line = f"{os.getpid()} {' '.join(map(str, numbers))}\n".encode()
    ledger = os.open(folder / LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, line)
    finally:
        os.close(ledger)


SPEC = ConsumerSpec(
    queue=Rehearsal.queue,
    bodies=(Rehearsal,),
    execute=execute,
    batch=20,
    deadline=60.0,
    memory=512,
    backoff=Backoff(base=0.05, factor=1.0, cap=0.05),
    preload=("outside.rehearsal",),
)
