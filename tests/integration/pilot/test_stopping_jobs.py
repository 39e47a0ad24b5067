"""Commands and limits that end a payload before its time."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.pilot.conftest import StartPilot
from tests.integration.pilot.payloads import alive, running_pid
from tests.integration.pilot.scripted_api import ScriptedApi
from tests.waiting import eventually


def test_a_killed_job_is_ended_and_reported_as_killed(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path
) -> None:
    key = api.give(1, "/bin/sh", "-c", f"echo before; echo $$ > {tmp_path}/pid; exec sleep 300")
    start_pilot()
    pid = running_pid(tmp_path / "pid")
    api.stop(key, "kill")
    report = api.report_of(key)
    assert report.outcome == "killed"
    assert not alive(pid)
    assert key in api.archives
    eventually(lambda: not api.beats[-1].jobs)


def test_a_superseded_job_is_forgotten(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path, workdir: Path
) -> None:
    key = api.give(1, "/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 300")
    start_pilot()
    pid = running_pid(tmp_path / "pid")
    api.stop(key, "superseded")
    eventually(lambda: not alive(pid) and not api.beats[-1].jobs and not (workdir / "jobs" / "1-1").exists())
    last = api.give(2, "true")
    api.report_of(last)
    assert list(api.reports) == [last]
    assert list(api.archives) == [last]


def test_limits_end_a_payload_and_name_the_limit(api: ScriptedApi, start_pilot: StartPilot) -> None:
    eat = "import time; held = bytearray(150 << 20); time.sleep(60)"
    write = "import time; open('big','wb').write(b'x' * (30 << 20)); time.sleep(60)"
    slow = api.give(1, "sleep", "60", wall_time=1)
    hungry = api.give(2, sys.executable, "-c", eat, memory=100)
    wide = api.give(3, sys.executable, "-c", write, disk=20)
    start_pilot()
    assert api.report_of(slow).outcome == "payload_failed"
    assert api.report_of(slow).reason.startswith("wall-time limit: ran ")
    report = api.report_of(hungry)
    assert report.reason.startswith("memory limit: used 1")
    assert report.reason.endswith(" MiB of 100 MiB")
    assert report.memory > 100
    assert api.report_of(wide).reason.startswith("disk limit: used 2")
