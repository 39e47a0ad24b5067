"""Control groups on the kernel, as far as the machine has them: membership and the end of all at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.pilot import cgroups
from pipeline.pilot.cgroups import Limits, Nest
from tests.integration.pilot.conftest import StartPilot
from tests.integration.pilot.payloads import alive
from tests.integration.pilot.scripted_api import ScriptedApi
from tests.waiting import eventually

LIMITS = Limits(memory=1000, tasks=1000, cores=1)


@pytest.fixture
def nest() -> Iterator[Nest]:
    """Of this process. The machine must let root make groups in a v2 hierarchy; it need have no controllers."""
    made = cgroups.settle(cgroups.find(), f"penstock-test-{os.getpid()}")
    assert made.folder, "no control group can be made here; tests run as root, with a cgroup2 mount"
    yield made
    made.leave()
    assert not Path(made.folder).exists()


def test_all_in_a_group_ends_at_once_and_the_group_goes(nest: Nest) -> None:
    group = nest.group("job-1-1", LIMITS)
    code = (
        f"import os, sys; sys.path.insert(0, {str(Path.cwd())!r}); from pipeline.pilot import cgroups; "
        f"cgroups.join({group!r}); os.fork(); os.fork(); os.setsid() if os.fork() == 0 else 0; "
        "print(flush=True); import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        eventually(lambda: len(cgroups.members(group)) == 8)
        pids = cgroups.members(group)
        cgroups.kill(group)
        process.wait()
        eventually(lambda: not cgroups.members(group))
    assert not [pid for pid in pids if alive(pid)]
    assert cgroups.cpu_time(group) > 0
    cgroups.remove(group)
    assert not Path(group).exists()


def test_without_cgroup_kill_what_is_frozen_is_killed_one_by_one(nest: Nest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Linux 5.14."""
    write = cgroups._write

    def older(group: str, name: str, value: object) -> None:
        if name == "cgroup.kill":
            raise FileNotFoundError(name)
        write(group, name, value)

    group = nest.group("job-1-1", LIMITS)
    with subprocess.Popen(["sleep", "600"]) as process:
        Path(group, "cgroup.procs").write_text(str(process.pid))
        monkeypatch.setattr(cgroups, "_write", older)
        cgroups.kill(group)
        assert process.wait() == -9


def test_a_payload_runs_in_a_group_of_its_own_which_goes_with_it(api: ScriptedApi, start_pilot: StartPilot) -> None:
    key = api.give(5, "/bin/sh", "-c", "tail -n 1 /proc/self/cgroup; i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done")
    pilot = start_pilot("--idle-limit", "0.5")
    report = api.report_of(key)
    assert report.outcome == "succeeded"
    assert api.archived(key)["stdout.txt"].decode().strip().endswith(f"/penstock-{pilot.pid}/job-5-1")
    assert report.cpu_time > 0
    assert pilot.wait(20) == 0
    assert not Path(cgroups.find(), f"penstock-{pilot.pid}").exists()
