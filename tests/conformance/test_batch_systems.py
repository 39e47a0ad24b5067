"""What every batch system must do, over each real one: `local` so far."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from executors.pilots.port import BATCH_ENDED, BatchAnswer, BatchState, BatchSystem, PilotRequest, open_batch_system
from tests.waiting import eventually

Open = Callable[..., BatchSystem]
"""Opens a queue whose pilots run the shell script given."""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    systems: list[BatchSystem] = []

    def open_(script: str, **options: object) -> BatchSystem:
        chosen = {"command": ["/bin/sh", "-c", script], "grace": 1.0, **options}
        systems.append(open_batch_system("local", "SITE.queue", chosen, tmp_path))
        return systems[-1]

    yield open_
    root = tmp_path / "local-batch" / "SITE.queue"
    if systems and root.exists():
        systems[0].remove([folder.name for folder in root.iterdir()])


def requests(tags: Sequence[str]) -> list[PilotRequest]:
    return [PilotRequest(tag) for tag in tags]


def ended(system: BatchSystem, tags: Sequence[str]) -> dict[str, BatchAnswer]:
    """The answers, once all of them have ended."""

    def check() -> dict[str, BatchAnswer]:
        answers = dict(system.poll(tags))
        return answers if len(answers) == len(tags) and all(a.state in BATCH_ENDED for a in answers.values()) else {}

    return eventually(check, within=20)


def running(system: BatchSystem, tags: Sequence[str]) -> None:
    eventually(lambda: {a.state for a in system.poll(tags).values()} == {BatchState.RUNNING}, within=20)


def test_twenty_pilots_are_followed_to_their_end(opened: Open) -> None:
    tags = [f"tag{number:02}" for number in range(20)]
    system = opened("echo hello; exit 0")
    assert set(system.submit(requests(tags))) == set(tags)
    answers = ended(system, tags)
    assert {(answer.state, answer.exit_code) for answer in answers.values()} == {(BatchState.DONE, 0)}
    assert {output.stdout for output in system.fetch_output(tags).values()} == {"hello\n"}


def test_a_failed_pilot_tells_its_exit_code_and_its_error_output(opened: Open) -> None:
    system = opened("echo wrong >&2; exit 7")
    system.submit(requests(["a"]))
    answer = ended(system, ["a"])["a"]
    assert (answer.state, answer.exit_code) == (BatchState.FAILED, 7)
    assert system.fetch_output(["a"])["a"].stderr == "wrong\n"


def test_an_unknown_tag_is_left_out_and_its_removal_is_fine(opened: Open) -> None:
    system = opened("true")
    assert dict(system.poll(["nobody"])) == {}
    assert dict(system.fetch_output(["nobody"])) == {}
    system.remove(["nobody"])


def test_a_tag_submitted_twice_is_one_pilot(opened: Open, tmp_path: Path) -> None:
    system = opened(f"echo ran >> {tmp_path / 'runs'}")
    system.submit(requests(["a", "a"]))
    system.submit(requests(["a"]))
    ended(system, ["a"])
    assert "a" in system.submit(requests(["a"]))
    ended(system, ["a"])
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_a_running_pilot_is_removed(opened: Open) -> None:
    system = opened("sleep 600")
    system.submit(requests(["a", "b"]))
    running(system, ["a", "b"])
    system.remove(["a"])
    assert ended(system, ["a"])["a"].state is BatchState.FAILED
    assert system.poll(["b"])["b"].state is BatchState.RUNNING


def test_a_pilot_that_ignores_sigterm_is_removed_by_force(opened: Open) -> None:
    system = opened("trap '' TERM; while true; do sleep 0.1; done", grace=0.3)
    system.submit(requests(["a"]))
    running(system, ["a"])
    system.remove(["a"])
    assert ended(system, ["a"])["a"].state is BatchState.FAILED


def test_a_pilot_is_removed_right_after_its_submission_and_after_its_end(opened: Open) -> None:
    system = opened("sleep 600")
    system.submit(requests(["a"]))
    system.remove(["a"])
    ended(system, ["a"])
    system.remove(["a"])
    assert system.poll(["a"])["a"].state is BatchState.FAILED


VICTIM = """
import sys
from pathlib import Path
from executors.pilots.port import PilotRequest, open_batch_system
data_dir, command, *tags = sys.argv[1:]
system = open_batch_system("local", "SITE.queue", {"command": ["/bin/sh", "-c", command]}, Path(data_dir))
for tag in tags:
    system.submit([PilotRequest(tag)])
    print(tag, flush=True)
"""


@pytest.mark.parametrize("after", [1, 3])
def test_a_submitter_killed_in_between_neither_doubles_nor_loses_a_pilot(
    opened: Open, tmp_path: Path, after: int
) -> None:
    tags = [f"tag{number:02}" for number in range(20)]
    script = f"echo $PWD >> {tmp_path / 'runs'}; sleep 0.2"
    command = [sys.executable, "-c", VICTIM, str(tmp_path), script, *tags]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        for _ in range(after):
            victim.stdout.readline()
        victim.send_signal(signal.SIGKILL)
    system = opened(script)
    known = system.poll(tags)
    assert tags[0] in known
    system.submit(requests([tag for tag in tags if tag not in known]))
    ended(system, tags)
    runs = (tmp_path / "runs").read_text().split()
    assert sorted(Path(run).name for run in runs) == tags


def test_a_pilot_outlives_its_submitter(opened: Open, tmp_path: Path) -> None:
    command = [sys.executable, "-c", VICTIM, str(tmp_path), "sleep 600", "a"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    system = opened("true")
    running(system, ["a"])


def test_a_local_pilot_gets_no_settings_and_no_lowered_limits_but_our_python_first(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", "mysql://user:password@host/name")
    script = "env; echo data=$(ulimit -S -d); command -v python3"
    limited = ["/bin/sh", "-c", 'ulimit -S -d 4000000; exec "$@"', "sh"]
    subprocess.run([*limited, sys.executable, "-c", VICTIM, str(tmp_path), script, "a"], check=True)
    system = opened("true")
    ended(system, ["a"])
    lines = system.fetch_output(["a"])["a"].stdout.splitlines()
    assert not [line for line in lines if line.startswith("PENSTOCK_")]
    assert "data=4000000" not in lines
    assert lines[-1] == str(Path(sys.executable).parent / "python3")
