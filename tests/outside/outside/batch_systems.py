"""Batch systems that are none of ours: one that takes its time, and one that kills whoever asks it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from executors.pilots.port import (
    BatchAnswer,
    BatchState,
    PilotOutput,
    PilotRequest,
    QueueSettings,
    Submission,
    open_batch_system,
)
from executors.pilots.program import PilotProgram
from pipeline.errors import BatchSystemUnavailable

T = TypeVar("T")


class SlowBatchSystem:
    """What it has is files of its folder; all of them are queued, for ever.

    Options: `seconds` that a call takes; `hangs`: a file without which no call comes back; `room`: pilots that one
    submission may bring; `proxy_ends_at`: of all pilots; `raises`: what it is that it says instead of an answer.
    """

    def __init__(self, queue: QueueSettings) -> None:
        self._folder = queue.data_dir / "slow" / queue.label
        self._options = queue.entry.options

    def submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Mapping[str, Submission]:
        assert program.command
        self._take_time()
        self._folder.mkdir(parents=True, exist_ok=True)
        taken = requests[: int(self._options.get("room", len(requests)))]
        if not taken:
            raise BatchSystemUnavailable("the queue is full")
        for request in taken:
            (self._folder / request.tag).touch()
        ends_at = self._options.get("proxy_ends_at")
        ends = None if ends_at is None else datetime.fromisoformat(ends_at)
        return {request.tag: Submission(f"slow-{request.tag}", ends) for request in taken}

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        self._take_time()
        known = [tag for tag in tags if (self._folder / tag).exists()]
        return {tag: BatchAnswer(f"slow-{tag}", BatchState.QUEUED) for tag in known}

    def remove(self, tags: Sequence[str]) -> None:
        self._take_time()
        for tag in tags:
            (self._folder / tag).unlink(missing_ok=True)

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        self._take_time()
        known = [tag for tag in tags if (self._folder / tag).exists()]
        return {tag: PilotOutput(f"I am {tag}\n", "") for tag in known}

    def _take_time(self) -> None:
        never = threading.Event()
        never.wait(float(self._options.get("seconds", 0)))
        hangs = self._options.get("hangs")
        while hangs is not None and not Path(hangs).exists():
            never.wait(0.02)
        if "raises" in self._options:
            raise LookupError(self._options["raises"])


class KillingBatchSystem:
    """Another one, between whose answer and the use that is made of it the consumer and its worker die by SIGKILL.

    Options: `of`, the kind of the other one; `options`, its own; `fuse`, a file that says after how many more answers
    it happens, without which nothing does.
    """

    def __init__(self, queue: QueueSettings) -> None:
        options = queue.entry.options
        entry = queue.entry.model_copy(update={"batch_system": options["of"], "options": options["options"]})
        self._real = open_batch_system(QueueSettings(queue.label, entry, queue.data_dir))
        self._fuse = Path(options["fuse"])

    def submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Mapping[str, Submission]:
        return self._burn(self._real.submit(requests, program))

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        return self._burn(self._real.poll(tags))

    def remove(self, tags: Sequence[str]) -> None:
        self._real.remove(tags)
        self._burn(None)

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        return self._burn(self._real.fetch_output(tags))

    def _burn(self, answer: T) -> T:
        if not self._fuse.exists():
            return answer
        left = int(self._fuse.read_text()) - 1
        if left > 0:
            self._fuse.write_text(str(left))
            return answer
        self._fuse.unlink()
        consumer = multiprocessing.parent_process()
        assert consumer is not None, "a consumer's worker has a parent"
        assert consumer.pid is not None
        os.kill(consumer.pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable: this process is dead")
