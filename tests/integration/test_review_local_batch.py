"""The local batch system inside a worker, whose memory limit counts the stacks of threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from executors.pilots.batch.local import LocalBatchSystem
from executors.pilots.port import BatchState, QueueSettings
from pipeline.errors import BadSettings
from schemas.sites import SiteQueueEntry
from tests.conformance.batch_site import requests, shell
from tests.waiting import eventually


def queue(data_dir: Path, **options: object) -> LocalBatchSystem:
    return LocalBatchSystem(QueueSettings("site.queue", SiteQueueEntry(name="queue", options=options), data_dir))


def test_living_pilots_cost_no_threads(tmp_path: Path) -> None:
    """A worker with 1 GiB had room for 120 of them; then a submission failed, and the queue ended as a dead letter."""
    system = queue(tmp_path, grace=5)
    tags = ["a", "b", "c"]
    before = threading.active_count()
    system.submit(requests(tags), shell("sleep 60"))
    try:
        assert threading.active_count() == before
        running = dict.fromkeys(tags, BatchState.RUNNING)
        eventually(lambda: {tag: answer.state for tag, answer in system.poll(tags).items()} == running, within=10)
    finally:
        system.remove(tags)


def test_ended_pilots_leave_no_zombies(tmp_path: Path) -> None:
    system = queue(tmp_path)
    system.submit(requests(["a"]), shell("true"))
    note = tmp_path / "local-batch" / "site.queue" / "a" / "pid"
    eventually(lambda: system.poll(["a"])["a"].state is BatchState.DONE if note.exists() else False, within=10)
    pid = note.read_text().split()[0]
    eventually(lambda: bool(system.poll(["a"])) and not Path(f"/proc/{pid}").exists(), within=10)


def test_the_secret_is_a_file_that_others_may_not_read(tmp_path: Path) -> None:
    system = queue(tmp_path)
    script = 'stat -c %a "$PENSTOCK_PILOT_SECRET_FILE"; cat "$PENSTOCK_PILOT_SECRET_FILE"; env'
    system.submit(requests(["a"]), shell(script))
    eventually(lambda: system.poll(["a"])["a"].state is BatchState.DONE, within=10)
    lines = system.fetch_output(["a"])["a"].stdout.splitlines()
    assert lines[0] == "600"
    assert lines[1].startswith("secret-of-a")
    assert [line for line in lines[2:] if "secret-of-a" in line] == []


def test_options_that_it_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"site\.queue.*comand"):
        queue(tmp_path, comand=["sleep"])
