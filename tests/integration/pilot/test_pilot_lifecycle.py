"""How a pilot begins, lives through outages, and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.pilot.conftest import StartPilot
from tests.integration.pilot.payloads import alive, running_pid
from tests.integration.pilot.scripted_api import SECRET, ScriptedApi
from tests.waiting import eventually


def test_a_pilot_says_who_it_is(api: ScriptedApi, start_pilot: StartPilot) -> None:
    start_pilot()
    enrolment = eventually(lambda: api.enrolments)[0]
    assert (enrolment.protocol, enrolment.tag) == (1, "tag-1")
    assert (enrolment.node.cores, enrolment.node.memory) == (4, 2000)
    assert enrolment.node.host
    assert enrolment.node.microarchitecture


def test_the_secrets_file_is_gone_once_it_is_read(api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    start_pilot("--secret-file", str(file), PENSTOCK_PILOT_SECRET="")
    assert eventually(lambda: api.enrolments)[0].secret == SECRET
    assert not file.exists()


def test_an_idle_pilot_ends_itself(api: ScriptedApi, start_pilot: StartPilot) -> None:
    assert start_pilot("--idle-limit", "0.5").wait(20) == 0
    assert api.ends == ["idle for 0.5 s"]


def test_a_draining_pilot_finishes_its_job_and_ends(api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    key = api.give(1, "/bin/sh", "-c", script)
    pilot = start_pilot()
    running_pid(tmp_path / "pid")
    api.drain = True
    beats = len(api.beats)
    eventually(lambda: len(api.beats) > beats + 2)
    api.give(2, "true")
    (tmp_path / "go").touch()
    assert pilot.wait(20) == 0
    assert api.reports[key].outcome == "succeeded"
    assert list(api.reports) == [key]
    assert api.ends == ["drain was told"]


def test_a_pilot_without_enough_lifetime_ends(api: ScriptedApi, start_pilot: StartPilot) -> None:
    key = api.give(1, "sleep", "300")
    assert start_pilot("--lifetime", "2").wait(20) == 0
    assert api.reports[key].outcome == "infrastructure_failed"
    assert api.reports[key].reason == "the pilot's lifetime ended"
    assert len(api.ends) == 1


def test_a_node_that_fails_job_after_job_ends_its_pilot(api: ScriptedApi, start_pilot: StartPilot) -> None:
    api.give(1, "false")
    api.give(2, "false")
    pilot = start_pilot()
    for number in (1, 2):
        assert api.report_of((number, 1)).outcome == "payload_failed"
    missing = {"lfn": "/v/x", "name": "x", "size": 1, "adler32": "00000001", "urls": ["file:///nowhere/x"]}
    for number in (3, 4, 5):
        api.give(number, "true", inputs=[missing])
    assert pilot.wait(20) == 0
    assert api.ends == ["3 jobs in a row failed on this node"]


def test_sigterm_stops_the_jobs_and_says_so(api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path) -> None:
    key = api.give(1, "/bin/sh", "-c", f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 1; done")
    pilot = start_pilot()
    pid = running_pid(tmp_path / "pid")
    pilot.send_signal(signal.SIGTERM)
    assert pilot.wait(10) == 0
    assert not alive(pid)
    assert (api.reports[key].outcome, api.reports[key].reason) == ("infrastructure_failed", "pilot was stopped")
    assert api.ends == ["pilot was stopped"]


def test_a_second_sigterm_ends_at_once_and_no_payload_survives(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path
) -> None:
    api.give(1, "/bin/sh", "-c", f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 1; done")
    pilot = start_pilot()
    pid = running_pid(tmp_path / "pid")
    pilot.send_signal(signal.SIGTERM)
    eventually(lambda: "drain_started" in (tmp_path / "pilot.log").read_text())
    pilot.send_signal(signal.SIGTERM)
    assert pilot.wait(2) == 1
    eventually(lambda: not alive(pid))


def test_an_outage_of_the_api_costs_no_attempt(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path, workdir: Path
) -> None:
    script = f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo done"
    key = api.give(1, "/bin/sh", "-c", script)
    start_pilot()
    running_pid(tmp_path / "pid")
    api.status = 503
    eventually(lambda: api.failed_calls > 3)
    (tmp_path / "go").touch()
    eventually(lambda: list((workdir / "reports").glob("*.json")))
    assert not api.reports
    api.status = 0
    assert api.report_of(key).outcome == "succeeded"
    assert key in api.archives
    eventually(lambda: not list((workdir / "reports").iterdir()))


@pytest.mark.parametrize("status", [401, 403, 426])
def test_a_pilot_that_the_api_sends_away_ends_with_its_payloads(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path, status: int
) -> None:
    api.give(1, "/bin/sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 300; true")
    pilot = start_pilot()
    pid = running_pid(tmp_path / "pid")
    api.status = status
    assert pilot.wait(10) == 1
    eventually(lambda: not alive(pid))


def test_a_pilot_that_is_not_let_in_ends(api: ScriptedApi, start_pilot: StartPilot) -> None:
    api.status = 403
    assert start_pilot().wait(10) == 1
    assert api.failed_calls == 1


def test_no_payload_outlives_a_killed_pilot_and_none_runs_twice(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path
) -> None:
    api.repeat_started = True
    script = f"echo ran >> {tmp_path}/runs; setsid sleep 300 & echo $! > {tmp_path}/pid; wait"
    key = api.give(1, "/bin/sh", "-c", script)
    pilot = start_pilot()
    pid = running_pid(tmp_path / "pid")
    pilot.kill()
    eventually(lambda: not alive(pid))
    start_pilot()
    report = api.report_of(key)
    assert (report.outcome, report.reason) == ("infrastructure_failed", "the pilot was killed while it held the job")
    offers = len(api.offers)
    eventually(lambda: len(api.offers) > offers + 2)
    assert (tmp_path / "runs").read_text() == "ran\n"
    assert api.started == [key]


def test_two_pilots_of_one_tag_in_one_folder_run_a_job_once(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path
) -> None:
    api.repeat_started = True
    key = api.give(1, "/bin/sh", "-c", f"echo ran >> {tmp_path}/runs; sleep 0.2")
    start_pilot()
    start_pilot()
    assert api.report_of(key).outcome == "succeeded"
    eventually(lambda: len(api.enrolments) == 2)
    offers = len(api.offers)
    eventually(lambda: len(api.offers) > offers + 2)
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_bad_options_are_named(pilot_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(pilot_file), "--tag", "t", "--workdir", str(tmp_path)]
    for options, words in [
        (["--api-url", "ftp://x"], "ftp://x"),
        (["--api-url", "http://x"], "PENSTOCK_PILOT_SECRET"),
        (["--api-url", "http://x", "--cores", "0"], "more than 0"),
        ([], "PENSTOCK_PILOT_API_URL"),
    ]:
        done = subprocess.run([*command, *options], capture_output=True, check=False, env={}, timeout=20)
        assert done.returncode == 2
        assert words in done.stderr.decode()
