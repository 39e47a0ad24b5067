"""The local batch system inside a worker, whose memory limit counts the stacks of threads."""

from __future__ import annotations

import threading
from pathlib import Path

from executors.pilots.local import LocalBatchSystem
from executors.pilots.port import BatchState, PilotRequest
from tests.waiting import eventually


def test_living_pilots_cost_no_threads(tmp_path: Path) -> None:
    """A worker with 1 GiB had room for 120 of them; then a submission failed, and the queue ended as a dead letter."""
    system = LocalBatchSystem("site.queue", {"command": ["sleep", "60"], "grace": 5}, tmp_path)
    tags = ["a", "b", "c"]
    before = threading.active_count()
    system.submit([PilotRequest(tag) for tag in tags])
    try:
        assert threading.active_count() == before
        running = dict.fromkeys(tags, BatchState.RUNNING)
        eventually(lambda: {tag: answer.state for tag, answer in system.poll(tags).items()} == running, within=10)
    finally:
        system.remove(tags)


def test_ended_pilots_leave_no_zombies(tmp_path: Path) -> None:
    system = LocalBatchSystem("site.queue", {"command": ["true"]}, tmp_path)
    system.submit([PilotRequest("a")])
    note = tmp_path / "local-batch" / "site.queue" / "a" / "pid"
    eventually(lambda: system.poll(["a"])["a"].state is BatchState.DONE if note.exists() else False, within=10)
    pid = note.read_text().split()[0]
    eventually(lambda: bool(system.poll(["a"])) and not Path(f"/proc/{pid}").exists(), within=10)
