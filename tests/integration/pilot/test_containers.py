"""Jobs inside images, by real podman; apptainer can't be installed here (see tests/unit/pilot/test_containers.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.pilot import processes
from tests.integration.pilot.conftest import Pilot, StartPilot
from tests.integration.pilot.images import make_archive, make_folder
from tests.integration.pilot.payloads import alive, running_pid
from tests.integration.pilot.scripted_api import SECRET, Key, ScriptedApi
from tests.servers import server_folder
from tests.waiting import eventually

assert shutil.which("podman"), "podman is not installed: deploy/setup.sh test"


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "folder")


def start(start_pilot: StartPilot, *options: str) -> Pilot:
    return start_pilot("--containers", "podman", *options)


def give(api: ScriptedApi, job_id: int, script: str, image: object, **fields: Any) -> Key:
    return api.give(job_id, "sh", "-c", script, image=str(image), **fields)


def is_nothing_left(workdir: Path) -> bool:
    """No storage of podman's, and nothing mounted there."""
    return not list((workdir / "containers").iterdir()) and str(workdir) not in Path("/proc/mounts").read_text()


def test_a_command_runs_in_a_folder_that_stays_as_it_is(
    api: ScriptedApi, start_pilot: StartPilot, image: Path, tmp_path: Path, workdir: Path
) -> None:
    script = "cat /etc/marker; touch /etc/new; id -u; pwd; echo $SEED > out; exit 7"
    url = (tmp_path / "out").as_uri()
    key = give(api, 1, script, image, environment={"SEED": "a b\nc"}, outputs=[{"name": "out", "url": url}])
    bare = give(api, 2, "env", image)
    start(start_pilot)
    report = api.report_of(key)
    assert (report.outcome, report.minor, report.exit_code) == ("payload_failed", "exit_code", 7), report
    assert api.archived(key)["stdout.txt"].decode().split() == ["of", "the", "image", "0", f"{workdir}/jobs/1-1"]
    assert sorted(path.name for path in (image / "etc").iterdir()) == ["marker"]
    assert api.report_of(bare).outcome == "succeeded"
    names = {line.partition("=")[0] for line in api.archived(bare)["stdout.txt"].decode().splitlines()}
    ours = {"PENSTOCK_JOB_ID", "PENSTOCK_ATTEMPT", "PENSTOCK_CORES", "PENSTOCK_JOB_DIR", "OMP_NUM_THREADS"}
    assert names - {"HOSTNAME", "TERM", "container"} == ours | {"HOME", "TMPDIR", "LANG", "PATH", "PWD"}
    (enrolment,) = api.enrolments
    assert enrolment.node.details is not None
    assert enrolment.node.details.containers == ("podman",)


def test_outputs_are_written_and_an_archive_is_an_image_too(
    api: ScriptedApi, start_pilot: StartPilot, image: Path, tmp_path: Path, workdir: Path
) -> None:
    archive = make_archive(image, tmp_path / "store", tmp_path / "image.tar")
    url = (tmp_path / "out").as_uri()
    outputs = [{"name": "out", "url": url}]
    key = give(api, 1, "cat /etc/marker > out", f"oci-archive:{archive}", outputs=outputs)
    pilot = start(start_pilot, "--idle-limit", "1")
    report = api.report_of(key)
    assert (report.outcome, report.reason) == ("succeeded", "")
    assert (tmp_path / "out").read_text() == "of the image\n"
    assert pilot.wait(20) == 0
    assert is_nothing_left(workdir)


@pytest.mark.parametrize("way", ["exit", "kill", "time", "pilot"])
def test_all_that_runs_inside_ends_with_its_job(
    api: ScriptedApi, start_pilot: StartPilot, image: Path, workdir: Path, way: str
) -> None:
    end = "" if way == "exit" else "trap '' TERM; while :; do sleep 1; done"
    script = f"setsid sleep 600 & echo $! > pid.part; read -r line < /proc/self/stat; ls; cat pid.part > pid; {end}"
    key = give(api, 1, f"{script}\nsleep 1; true", image, wall_time=3 if way == "time" else 60)
    pilot = start(start_pilot)
    inside = running_pid(workdir / "jobs" / "1-1" / "pid")
    # one process namespace, so that the node's eyes see what the job sees
    assert alive(inside)
    below = processes.descendants(processes.table(), pilot.pid)
    assert inside in below
    if way == "pilot":
        pilot.kill()
        pilot.wait()
        eventually(lambda: not [pid for pid in below if alive(pid)])
        eventually(lambda: is_nothing_left(workdir))
        return
    if way == "kill":
        api.stop(key, "kill")
    report = api.report_of(key)
    assert report.minor == {"exit": None, "kill": "killed", "time": "wall_time_limit"}[way]
    assert not alive(inside)
    (_warden,) = processes.descendants(processes.table(), pilot.pid)
    kept = (workdir / "containers").glob("*/storage/*-containers/*")
    assert not [path for path in kept if path.is_dir()]
    pilot.terminate()
    assert pilot.wait(20) == 0
    assert is_nothing_left(workdir)


def test_what_is_wrong_with_an_image_or_a_command_is_told(
    api: ScriptedApi, start_pilot: StartPilot, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "file.tar").touch()
    wrong = {
        give(api, 1, "true", tmp_path / "nowhere"): ("infrastructure_failed", "image_missing"),
        give(api, 2, "true", tmp_path / "file.tar"): ("payload_failed", "image_invalid"),
        give(api, 3, "true", f"oci-archive:{tmp_path}/file.tar"): ("infrastructure_failed", "image_missing"),
        give(api, 4, "true", tmp_path / "image.sif"): ("infrastructure_failed", "no_container"),
        api.give(5, "no-such-program", image=str(image)): ("payload_failed", "command_not_found"),
    }
    api.terms["max_failures"] = 10
    start(start_pilot)
    for key, expected in wrong.items():
        report = api.report_of(key)
        assert (report.outcome, report.minor) == expected, report
        assert report.reason


def test_a_pilot_without_privileges_leaves_no_process_of_podmans(api: ScriptedApi, pilot_file: Path) -> None:
    """Rootless podman keeps a process of its own, which no parent knows, for as long as the machine runs."""
    with server_folder("rootless") as folder:
        folder.chmod(0o777)
        shutil.copy(pilot_file, folder)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        command += ["/usr/bin/python3", str(folder / pilot_file.name), "--api-url", api.url, "--tag", "tag-1"]
        command += ["--workdir", str(folder / "work"), "--containers", "podman", "--idle-limit", "1"]
        variables = {"PATH": os.defpath, "HOME": str(folder), "PENSTOCK_PILOT_SECRET": SECRET}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert [node.node.details for node in api.enrolments]
        mark = f"HOME={folder}/work".encode()
        eventually(lambda: not [path for path in Path("/proc").glob("[0-9]*/environ") if mark in _content(path)])


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
