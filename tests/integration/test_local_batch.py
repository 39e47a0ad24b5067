"""What is the local batch system's alone: pilots are processes, which outlive who submitted them and cost it little."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from executors.pilots.batch.local import LocalBatchSystem
from executors.pilots.port import BATCH_ENDED, BatchState, QueueSettings
from pipeline.errors import BadSettings
from schemas.sites import SiteQueueEntry
from tests.conformance.batch_site import answered, requests, shell
from tests.waiting import eventually

VICTIM = """
import sys
from pathlib import Path
from executors.pilots.batch.local import LocalBatchSystem
from executors.pilots.port import PilotRequest, QueueSettings
from executors.pilots.program import PilotProgram
from schemas.sites import SiteQueueEntry
data_dir, script, *tags = sys.argv[1:]
system = LocalBatchSystem(QueueSettings("SITE.queue", SiteQueueEntry(name="queue"), Path(data_dir)))
program = PilotProgram({"program.sh": script.encode()}, ("/bin/sh", "program.sh"))
for tag in tags:
    system.submit([PilotRequest(tag)], program)
    print(tag, flush=True)
"""


def queue(data_dir: Path, **options: object) -> LocalBatchSystem:
    return LocalBatchSystem(QueueSettings("SITE.queue", SiteQueueEntry(name="queue", options=options), data_dir))


@pytest.fixture
def system(tmp_path: Path) -> Iterator[LocalBatchSystem]:
    opened = queue(tmp_path, grace=1.0)
    yield opened
    opened.remove([folder.name for folder in (tmp_path / "local-batch" / "SITE.queue").iterdir()])


def victim(folder: Path, script: str, tags: Sequence[str]) -> list[str]:
    """The command of a process that submits these pilots one by one, and says so."""
    return [sys.executable, "-c", VICTIM, str(folder), script, *tags]


@pytest.mark.parametrize("after", [1, 3])
def test_a_submitter_killed_in_between_neither_doubles_nor_loses_a_pilot(
    system: LocalBatchSystem, tmp_path: Path, after: int
) -> None:
    tags = [f"tag{number:02}" for number in range(20)]
    script = f"echo $PENSTOCK_PILOT_TAG >> {tmp_path / 'runs'}; sleep 0.2"
    with subprocess.Popen(victim(tmp_path, script, tags), stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        for _ in range(after):
            killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    known = system.poll(tags)
    assert tags[0] in known
    system.submit(requests([tag for tag in tags if tag not in known]), shell(script))
    answered(system, tags, BATCH_ENDED, within=30)
    assert sorted((tmp_path / "runs").read_text().split()) == tags


def test_a_pilot_outlives_its_submitter(system: LocalBatchSystem, tmp_path: Path) -> None:
    subprocess.run(victim(tmp_path, "sleep 600", ["a"]), check=True, stdout=subprocess.DEVNULL)
    eventually(lambda: system.poll(["a"])["a"].state is BatchState.RUNNING)


def test_a_pilot_gets_no_settings_and_no_lowered_limits_but_our_python_first(
    system: LocalBatchSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", "mysql://user:password@host/name")
    limited = ["/bin/sh", "-c", 'ulimit -S -d 4000000; exec "$@"', "sh"]
    script = "env; echo data=$(ulimit -S -d); command -v python3"
    subprocess.run([*limited, *victim(tmp_path, script, ["a"])], check=True)
    answered(system, ["a"], BATCH_ENDED, within=30)
    lines = system.fetch_output(["a"])["a"].stdout.splitlines()
    assert not [line for line in lines if "password" in line]
    assert "data=4000000" not in lines
    assert lines[-1] == str(Path(sys.executable).parent / "python3")


def test_living_pilots_cost_no_threads(system: LocalBatchSystem) -> None:
    """A worker's memory limit counts their stacks: one with 1 GiB had room for 120 pilots; then a submission failed,
    and the queue ended as a dead letter."""
    tags = ["a", "b", "c"]
    before = threading.active_count()
    system.submit(requests(tags), shell("sleep 60"))
    assert threading.active_count() == before
    running = dict.fromkeys(tags, BatchState.RUNNING)
    eventually(lambda: {tag: answer.state for tag, answer in system.poll(tags).items()} == running, within=10)


def test_ended_pilots_leave_no_zombies(system: LocalBatchSystem, tmp_path: Path) -> None:
    system.submit(requests(["a"]), shell("true"))
    note = tmp_path / "local-batch" / "SITE.queue" / "a" / "pid"
    eventually(lambda: system.poll(["a"])["a"].state is BatchState.DONE if note.exists() else False, within=10)
    pid = note.read_text().split()[0]
    eventually(lambda: bool(system.poll(["a"])) and not Path(f"/proc/{pid}").exists(), within=10)


def test_the_secret_is_a_file_that_others_may_not_read(system: LocalBatchSystem) -> None:
    script = 'stat -c %a "$PENSTOCK_PILOT_SECRET_FILE"; cat "$PENSTOCK_PILOT_SECRET_FILE"; env'
    system.submit(requests(["a"]), shell(script))
    eventually(lambda: system.poll(["a"])["a"].state is BatchState.DONE, within=10)
    lines = system.fetch_output(["a"])["a"].stdout.splitlines()
    assert lines[0] == "600"
    assert lines[1].startswith("secret-of-a")
    assert [line for line in lines[2:] if "secret-of-a" in line] == []


def test_options_that_it_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"SITE\.queue.*comand"):
        queue(tmp_path, comand=["sleep"])
