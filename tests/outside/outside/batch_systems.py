"""Batch systems that are none of ours: one that takes its time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from executors.pilots.port import BatchAnswer, BatchState, PilotOutput, PilotRequest, QueueSettings, Submission
from executors.pilots.program import PilotProgram


class SlowBatchSystem:
    """Answers each call after `seconds`, or never where it `hangs`. What it has is files of its folder.

    Options: `seconds`; `hangs`; `room`: it takes no more than so many pilots.
    """

    def __init__(self, queue: QueueSettings) -> None:
        self._folder = queue.data_dir / "slow" / queue.label
        self._options = queue.entry.options

    def submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Mapping[str, Submission]:
        assert program.command
        self._take_time()
        self._folder.mkdir(parents=True, exist_ok=True)
        room = int(self._options.get("room", len(requests)))
        for request in requests[:room]:
            (self._folder / request.tag).touch()
        return {request.tag: Submission(f"slow-{request.tag}") for request in requests[:room]}

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
        hangs = self._options.get("hangs", False)
        threading.Event().wait(None if hangs else float(self._options.get("seconds", 0)))
