"""Payloads that do what payloads should not: each ends for the right reason, and neither node nor neighbour minds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.pilot import cgroups, processes
from tests.integration.pilot.conftest import Pilot, StartPilot
from tests.integration.pilot.payloads import alive
from tests.integration.pilot.scripted_api import Key, ScriptedApi
from tests.waiting import eventually

PATIENCE = 90.0
# no more than 2,000 processes, should nobody stop it
BOMB = 'bomb() { [ "$1" -gt 0 ] && { bomb $(($1-1)) & bomb $(($1-1)) & }; sleep 60; }; bomb 9'
DAEMON = """
import os, sys, time
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
os.chdir('/')
for descriptor in range(10):
    try: os.close(descriptor)
    except OSError: pass
time.sleep(600)
"""
HUNGRY = "held = []\nwhile True: held.append(bytearray(b'x') * (10 << 20))"
MANY_FILES = "n = 0\nwhile True:\n    open(f'{n}', 'wb').write(b'x' * (1 << 20)); n += 1"


@dataclass(frozen=True)
class Case:
    """A payload, and how it must end."""

    command: tuple[str, ...]
    outcome: str
    minor: str | None
    reason: str
    exit_code: int | None
    """None: none, or one or another."""
    fields: dict[str, Any] = field(default_factory=dict)


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script)


OUTPUT = {"outputs": [{"name": "out", "url": "file:///nowhere/out"}]}
CASES = {
    "forks": Case(shell(BOMB), "payload_failed", "process_limit", "process limit: had ", 137),
    "ignores-sigterm-past-wall-time": Case(
        shell("trap '' TERM; while :; do sleep 0.1; done"),
        "payload_failed",
        "wall_time_limit",
        "wall-time limit: ran ",
        137,
        {"wall_time": 3, "stop_grace": 2},
    ),
    "runs-past-wall-time": Case(
        ("sleep", "60"),
        "payload_failed",
        "wall_time_limit",
        "wall-time limit: ran ",
        143,
        {"wall_time": 30, "stop_grace": 29},
    ),
    "fills-memory": Case(python(HUNGRY), "payload_failed", "memory_limit", "memory limit: ", 137, {"memory": 200}),
    "fills-disk-with-many-files": Case(
        python(MANY_FILES), "payload_failed", "disk_limit", "disk limit: used ", 137, {"disk": 50}
    ),
    "fills-disk-with-one-file": Case(
        shell("exec cat /dev/zero > zeros"), "payload_failed", "disk_limit", "disk limit: ", None, {"disk": 50}
    ),
    "writes-1-gb-to-stdout": Case(shell("yes all work and no play | head -c 1G"), "succeeded", None, "", 0),
    "dies-of-a-signal": Case(shell("kill -SEGV $$"), "payload_failed", "signal", "ended by signal 11 (SIGSEGV)", 139),
    "dumps-core": Case(
        shell("ulimit -c unlimited; kill -ABRT $$"), "payload_failed", "signal", "ended by signal 6 (SIGABRT)", 134
    ),
    "deletes-its-work-directory": Case(
        shell('rm -rf "$PWD"'), "payload_failed", "output_missing", "output out is missing", 0, OUTPUT
    ),
    "kills-its-guardian": Case(
        shell("setsid sleep 600 & kill -9 $PPID; sleep 600"),
        "infrastructure_failed",
        "guardian_killed",
        "the payload's guardian was killed",
        None,
    ),
}


class Node:
    """One pilot with a neighbour that must not be harmed."""

    def __init__(self, api: ScriptedApi, start_pilot: StartPilot, folder: Path, workdir: Path) -> None:
        self.api = api
        self.workdir = workdir
        self.go = folder / "go"
        self.result = folder / "result"
        script = f"while [ ! -e {self.go} ]; do sleep 0.05; done; echo fine > result"
        url = self.result.as_uri()
        self.neighbour: Key = api.give(100, "/bin/sh", "-c", script, outputs=[{"name": "result", "url": url}])
        self.pilots: list[Pilot] = []
        self._start_pilot = start_pilot

    def start(self, *options: str) -> Pilot:
        pilot = self._start_pilot(*options)
        self.pilots.append(pilot)
        eventually(lambda: self.neighbour in self.api.started)
        return pilot

    def check(self, pilot: Pilot) -> None:
        """The neighbour has run all the while and succeeds when it may end; then the node is clean."""
        assert self.neighbour not in self.api.reports
        self.go.touch()
        neighbour = self.api.report_of(self.neighbour)
        assert (neighbour.outcome, neighbour.reason) == ("succeeded", "")
        assert self.result.read_text() == "fine\n"
        assert eventually(lambda: self._is_clean(pilot), within=PATIENCE)

    def _is_clean(self, pilot: Pilot) -> bool:
        """Nothing but the pilot's warden descends from it, and no attempt has left a file."""
        kept = ("jobs", "logs", "reports", "archives")
        files = [path for name in kept for path in (self.workdir / name).iterdir()]
        return not files and len(processes.descendants(processes.table(), pilot.pid)) == 1


@pytest.fixture
def node(api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path, workdir: Path) -> Iterator[Node]:
    made = Node(api, start_pilot, tmp_path, workdir)
    yield made
    made.go.touch()
    eventually(lambda: not left_of(made), within=PATIENCE)


@pytest.fixture
def daemon(tmp_path: Path) -> Path:
    """A Python program that leaves all that it was started in."""
    program = tmp_path / "daemon.py"
    program.write_text(DAEMON)
    return program


def left_of(node: Node) -> list[Path]:
    """Control groups of jobs."""
    return [folder for pilot in node.pilots for folder in groups_of(pilot) if folder.name != "pilot"]


def groups_of(pilot: Pilot) -> list[Path]:
    """The control groups that it has made for its jobs."""
    home = cgroups.find()
    return [path for path in Path(home or "/nowhere").glob(f"penstock-{pilot.pid}/*") if path.is_dir()]


ALONE = {"forks"}
"""What slows everything else on the machine down."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.alone) if name in ALONE else name for name in CASES]
)
def test_it_ends_for_the_right_reason_and_leaves_nothing(name: str, node: Node, api: ScriptedApi) -> None:
    case = CASES[name]
    torture = api.give(1, *case.command, **{"memory": 1000, **case.fields})
    pilot = node.start()
    report = api.report_of(torture)
    assert (report.outcome, report.minor) == (case.outcome, case.minor), report
    assert case.exit_code in {None, report.exit_code}
    assert report.reason.startswith(case.reason)
    node.check(pilot)


def test_of_much_output_head_and_tail_are_kept(node: Node, api: ScriptedApi) -> None:
    script = "import sys; sys.stdout.write('the beginning\\n' + 'x' * (50 << 20) + '\\nthe end\\n')"
    key = api.give(1, *python(script), disk=20)
    node.start()
    report = api.report_of(key)
    assert report.outcome == "succeeded"
    kept = api.archived(key)["stdout.txt"]
    assert len(kept) <= 1 << 20
    assert kept.startswith(b"the beginning\nxxx")
    assert kept.endswith(b"xxx\nthe end\n")
    head, _, tail = kept.partition(b"\n[penstock: ")
    missing = int(tail.split()[0])
    assert len(head) + missing + len(tail.partition(b"]\n")[2]) == len("the beginning\n\nthe end\n") + (50 << 20)
    node.go.touch()


@pytest.mark.parametrize("groups", ["auto", "none"])
def test_daemons_that_leave_session_environment_and_folder_end_with_their_job(
    node: Node, api: ScriptedApi, daemon: Path, tmp_path: Path, groups: str
) -> None:
    start = f"for n in 1 2 3; do env -i {sys.executable} {daemon}; done; "
    key = api.give(1, *shell(start + f"pgrep -f {daemon} > {tmp_path}/daemons; exit 3"))
    pilot = node.start("--cgroups", groups)
    report = api.report_of(key)
    assert (report.outcome, report.minor, report.exit_code) == ("payload_failed", "exit_code", 3)
    daemons = [int(word) for word in (tmp_path / "daemons").read_text().split()]
    assert len(daemons) >= 3
    assert not [pid for pid in daemons if alive(pid)]
    node.check(pilot)


@pytest.mark.parametrize("groups", ["auto", "none"])
def test_when_the_pilot_is_killed_nothing_of_its_payloads_lives_on(
    node: Node, api: ScriptedApi, daemon: Path, tmp_path: Path, groups: str
) -> None:
    start = f"trap '' TERM; env -i {sys.executable} {daemon}; pgrep -f {daemon} > pids; "
    keys = [
        api.give(number, *shell(start + f"echo $$ >> pids; mv pids {tmp_path}/pids-{number}; sleep 600; true"))
        for number in (1, 2)
    ]
    pilot = node.start("--cgroups", groups)
    lists = [tmp_path / f"pids-{number}" for number, _ in keys]
    eventually(lambda: all(path.exists() for path in lists))
    pids = {int(word) for path in lists for word in path.read_text().split()}
    pids |= processes.descendants(processes.table(), pilot.pid)
    assert len(pids) >= 8
    pilot.kill()
    pilot.wait()
    eventually(lambda: not [pid for pid in pids if alive(pid)])
    assert not list((node.workdir / "jobs").iterdir())
    assert not list((node.workdir / "logs").iterdir())
    eventually(lambda: not groups_of(pilot))


def test_a_bomb_without_control_groups_is_ended_too(node: Node, api: ScriptedApi) -> None:
    key = api.give(1, *shell(BOMB), memory=1900)
    pilot = node.start("--cgroups", "none")
    assert api.report_of(key).minor == "process_limit"
    node.check(pilot)


def test_a_job_that_heeds_its_stop_signal_has_succeeded(node: Node, api: ScriptedApi) -> None:
    script = "trap 'echo saved; exit 0' USR1; while :; do sleep 0.05; done"
    kept = api.give(1, *shell(script), wall_time=60, stop_signal="SIGUSR1", stop_grace=59)
    script = "trap 'exit 7' TERM; while :; do sleep 0.05; done"
    broken = api.give(2, *shell(script), wall_time=60, stop_grace=59)
    deaf = api.give(3, "sleep", "60", wall_time=1, stop_grace=0)
    node.start()
    report = api.report_of(kept)
    assert (report.outcome, report.minor, report.exit_code) == ("succeeded", None, 0)
    assert report.wall_time < 60
    assert api.archived(kept)["stdout.txt"] == b"saved\n"
    report = api.report_of(broken)
    assert (report.outcome, report.minor, report.exit_code) == ("payload_failed", "wall_time_limit", 7)
    assert report.reason.endswith(" s of 60 s when it was sent SIGTERM")
    assert api.report_of(deaf).reason.endswith(" s of 1 s")
    node.go.touch()
