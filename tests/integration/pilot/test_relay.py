"""Pilots without any network: a spool folder, and relays that carry their calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.pilot import spool
from pipeline.pilot.client import Client
from pipeline.pilot.errors import Fenced, Refused, Unreachable
from tests.integration.pilot.conftest import INTERPRETER, Pilot, ended_at_last
from tests.integration.pilot.scripted_api import SECRET, TOKEN, ScriptedApi
from tests.waiting import eventually

STOPPED_ANYWHERE = """
import os, signal, sys
from pipeline.pilot import relay

def serve(lines_before):
    lines = None
    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_name == "_round" and lines is None:
            lines = 0
        if event == "line" and lines is not None:
            lines += 1
            if lines == lines_before:
                os.kill(os.getpid(), signal.SIGTERM)
        return trace
    sys.settrace(trace)
    os._exit(relay.main(["--spool", sys.argv[1], "--api-url", "http://127.0.0.1:1"]))

relays = [os.fork() or serve(lines_before) for lines_before in range(1, 51)]
assert [os.waitpid(pid, 0)[1] for pid in relays] == [0] * len(relays)
"""
"""A relay for each line that one of them passes from one look at its folder to the next, told to stop just there."""

StartRelay = Callable[..., Pilot]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def start_relay(pilot_file: Path, api: ScriptedApi, folder: Path, tmp_path: Path) -> Iterator[StartRelay]:
    """Starts a relay and waits until it serves."""

    def start(*options: str) -> Pilot:
        before = len(list(folder.glob("relay-*")))
        command = [INTERPRETER, str(pilot_file), "relay", "--spool", str(folder), "--api-url", api.url, *options]
        with (tmp_path / "relay.log").open("ab") as log:
            started.append(subprocess.Popen(command, stderr=log, stdout=log))
        eventually(lambda: len(list(folder.glob("relay-*"))) > before)
        return started[-1]

    with ended_at_last() as started:
        yield start


@pytest.fixture
def start_secluded(pilot_file: Path, folder: Path, tmp_path: Path) -> Iterator[Callable[..., Pilot]]:
    """Starts a pilot in a network namespace of its own: it has no route, not even a loopback that is up."""

    def start(*options: str) -> Pilot:
        command = ["unshare", "--net", *([] if os.getuid() == 0 else ["--map-root-user"])]
        command += [INTERPRETER, str(pilot_file), "--api-url", f"spool:{folder}", "--tag", "tag-1"]
        command += ["--workdir", str(tmp_path / "work"), "--cores", "4", "--memory", "2000", "--disk", "1000", *options]
        with (tmp_path / "pilot.log").open("ab") as log:
            environment = {**os.environ, "PENSTOCK_PILOT_SECRET": SECRET}
            started.append(subprocess.Popen(command, env=environment, stderr=log, stdout=log))
        return started[-1]

    with ended_at_last() as started:
        yield start


def test_a_pilot_without_any_route_runs_jobs_through_the_relay(
    api: ScriptedApi, start_relay: StartRelay, start_secluded: Callable[..., Pilot], tmp_path: Path, folder: Path
) -> None:
    routes = api.give(1, "/bin/sh", "-c", f"cat /proc/net/route /proc/net/dev > {tmp_path}/network; seq 200000")
    others = [api.give(number, "true") for number in range(2, 6)]
    start_relay()
    pilot = start_secluded("--idle-limit", "2")
    assert pilot.wait(30) == 0
    assert {api.reports[key].outcome for key in (routes, *others)} == {"succeeded"}
    lines = (tmp_path / "network").read_text().splitlines()
    assert [line.split(":")[0].strip() for line in lines if ":" in line] == ["lo"]
    assert set(api.archives) == {routes, *others}
    assert api.ends == ["idle for 2 s"]
    # what a thread of the pilot was just asking is still carried, what it was just writing stays half until it is swept
    eventually(lambda: all(left.suffix == ".part" for left in (folder / "requests").iterdir()))


def test_a_relay_that_is_killed_costs_no_attempt(
    api: ScriptedApi, start_relay: StartRelay, start_secluded: Callable[..., Pilot], tmp_path: Path
) -> None:
    key = api.give(1, "/bin/sh", "-c", f"touch {tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")
    first = start_relay()
    pilot = start_secluded("--idle-limit", "1")
    eventually((tmp_path / "runs").exists)
    first.kill()
    first.wait()
    (tmp_path / "go").touch()
    eventually(lambda: "payload_ended" in (tmp_path / "pilot.log").read_text())
    start_relay()
    start_relay()  # two serve one folder, and each call is carried once
    eventually(lambda: api.reports)
    assert api.reports[key].outcome == "succeeded"
    assert api.started == [key]
    pilot.send_signal(signal.SIGTERM)
    assert pilot.wait(60) == 0


def test_what_the_api_says_comes_through_whatever_it_is(
    api: ScriptedApi, start_relay: StartRelay, folder: Path
) -> None:
    relay = start_relay()
    client = Client(f"spool:{folder}")
    client.authorise(TOKEN)
    assert client.post("/v1/pilots/self/heartbeat", {"jobs": []})["heartbeat_interval"] == 0.2
    for status, kind in ((503, Unreachable), (422, Refused), (401, Fenced)):
        api.status = status
        with pytest.raises(kind):
            client.post("/v1/pilots/self/heartbeat", {"jobs": []})
    with pytest.raises(Unreachable, match="carries calls below /v1/pilots/ alone"):
        client.post("/v1/jobs", {})
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(10) == 0
    assert not list(folder.glob("relay-*"))


def test_a_call_that_no_relay_takes_is_given_up_and_taken_back(
    start_relay: StartRelay, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_relay().kill()
    monkeypatch.setattr(spool, "_SLACK", 0.1)
    with pytest.raises(Unreachable, match=r"no relay of .* answered within 0\.3 s"):
        Client(f"spool:{folder}").post("/v1/pilots/self/heartbeat", {"jobs": []}, 0.2)
    assert not list((folder / "requests").iterdir())


def test_a_call_whose_pilot_has_given_up_reaches_nobody(
    api: ScriptedApi, start_relay: StartRelay, folder: Path
) -> None:
    start_relay().kill()
    left = folder / "requests" / ("0" * 32)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    heartbeat = {"method": "POST", "path": "/v1/pilots/self/heartbeat", "headers": headers, "timeout": 30.0}
    spool.write(str(left), heartbeat, b'{"jobs": []}')
    os.utime(left, (1.0, 1.0))
    start_relay()
    eventually(lambda: not left.exists())
    assert not list((folder / "replies").iterdir())
    assert api.beats == []


def test_a_relay_ends_at_whatever_it_is_when_it_is_told_to_stop(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPED_ANYWHERE, str(folder)], start_new_session=True) as relays:
        try:
            assert relays.wait(30) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(relays.pid, signal.SIGKILL)


def test_a_relay_refuses_a_folder_that_others_may_read(pilot_file: Path, folder: Path) -> None:
    folder.mkdir(mode=0o755)
    command = [INTERPRETER, str(pilot_file), "relay", "--spool", str(folder), "--api-url", "http://127.0.0.1:1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "chmod 700" in done.stderr
