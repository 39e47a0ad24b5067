"""One attempt from the assignment to the report, by the real pilot file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

from tests.integration.pilot.conftest import StartPilot
from tests.integration.pilot.payloads import alive
from tests.integration.pilot.scripted_api import SECRET, TOKEN, ScriptedApi
from tests.waiting import eventually


def packed(**files: str) -> tuple[str, bytes]:
    """A sandbox of `files` and its sha256; underscores in names stand for dots."""
    buffer = io.BytesIO()
    with tarfile.open(mode="w:gz", fileobj=buffer) as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size, entry.mode = len(text), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()


def test_an_output_is_stored_with_its_size_checksum_and_sidecar(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path, workdir: Path
) -> None:
    target = tmp_path / "storage" / "a b" / "out.bin"
    url = (tmp_path / "storage").as_uri() + "/a%20b/out.bin"
    code = "print('hello'); open('out.bin','wb').write(b'penstock' * 1000); open('note.log','w').write('kept')"
    key = api.give(1, sys.executable, "-c", code, outputs=[{"name": "out.bin", "url": url}], archive=["*.log"])
    start_pilot()
    report = api.report_of(key)
    content = b"penstock" * 1000
    assert (report.outcome, report.exit_code, report.reason) == ("succeeded", 0, "")
    assert target.read_bytes() == content
    checksum = f"{zlib.adler32(content):08x}"
    assert [output.model_dump() for output in report.outputs] == [
        {"name": "out.bin", "url": url, "size": 8000, "adler32": checksum}
    ]
    sidecar = json.loads((target.parent / "out.bin.adler32").read_text())
    assert sidecar == {"adler32": checksum, "size": 8000, "mtime_ns": target.stat().st_mtime_ns}
    assert api.archived(key) == {"stdout.txt": b"hello\n", "stderr.txt": b"", "note.log": b"kept"}
    kept = ("jobs", "logs", "reports", "archives")
    eventually(lambda: not [path for name in kept for path in (workdir / name).iterdir()])
    assert len(list((workdir / "ledger").iterdir())) == 1


def test_several_jobs_run_side_by_side_and_totals_are_offered(api: ScriptedApi, start_pilot: StartPilot) -> None:
    keys = [api.give(number, "sleep", "60") for number in (1, 2, 3)]
    start_pilot()
    eventually(lambda: api.beats and sorted(api.started) == keys and len(api.beats[-1].jobs) == 3)
    eventually(lambda: {job.phase for job in api.beats[-1].jobs} == {"running"})
    offer = eventually(lambda: next((offer for offer in api.offers if len(offer.jobs) == 3), None))
    assert offer
    assert (offer.cores, offer.memory, offer.disk) == (4, 2000, 1000)
    assert 0 < offer.time_left <= 600


def test_a_full_pilot_does_not_offer(api: ScriptedApi, start_pilot: StartPilot) -> None:
    api.give(1, "sleep", "60", cores=4)
    start_pilot()
    eventually(lambda: len(api.beats) > 4 and api.beats[-1].jobs)
    assert all(not offer.jobs for offer in api.offers)


def test_a_repeated_assignment_runs_once(api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path) -> None:
    api.repeat_started = True
    key = api.give(1, "/bin/sh", "-c", f"echo ran >> {tmp_path}/runs")
    start_pilot()
    api.report_of(key)
    offers = len(api.offers)
    eventually(lambda: len(api.offers) > offers + 3)
    assert (tmp_path / "runs").read_text() == "ran\n"
    assert api.started == [key]


def test_a_refused_start_never_runs(api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path) -> None:
    api.refuse.add((1, 1))
    api.give(1, "/bin/sh", "-c", f"touch {tmp_path}/refused")
    second = api.give(2, "/bin/sh", "-c", f"touch {tmp_path}/accepted")
    start_pilot()
    api.report_of(second)
    eventually(lambda: api.offers and not api.offers[-1].jobs)
    assert (tmp_path / "accepted").exists()
    assert not (tmp_path / "refused").exists()
    assert list(api.reports) == [second]


def test_a_refused_report_is_dropped(api: ScriptedApi, start_pilot: StartPilot, workdir: Path) -> None:
    key = api.give(1, "true")
    api.refuse_reports.add(key)
    start_pilot()
    api.report_of(key)
    eventually(lambda: not list((workdir / "reports").iterdir()) and not api.offers[-1].jobs)
    beats = len(api.beats)
    eventually(lambda: len(api.beats) > beats + 1 and not api.beats[-1].jobs)
    assert api.report_calls == 1


def test_inputs_come_from_the_first_replica_that_is_sound(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"right")
    bad.write_bytes(b"wrong")
    entry = {"lfn": "/v/in", "name": "in.txt", "size": 5, "adler32": f"{zlib.adler32(b'right'):08x}"}
    sound = api.give(1, "cat", "in.txt", inputs=[{**entry, "urls": [bad.as_uri(), good.as_uri()]}])
    unsound = api.give(2, "cat", "in.txt", inputs=[{**entry, "urls": [bad.as_uri(), "root://no/where"]}])
    start_pilot()
    assert api.report_of(sound).outcome == "succeeded"
    assert api.archived(sound)["stdout.txt"] == b"right"
    report = api.report_of(unsound)
    assert report.outcome == "infrastructure_failed"
    assert "/v/in" in report.reason
    assert bad.as_uri() in report.reason


FAILURES: list[tuple[tuple[str, ...], str, int | None]] = [
    (("/bin/sh", "-c", "exit 3"), "exit code 3", 3),
    (("/bin/sh", "-c", "kill -SEGV $$"), "ended by signal 11 (SIGSEGV)", 139),
    (("true",), "output out.bin is missing", 0),
    (("/bin/sh", "-c", "ln -s /etc/hostname out.bin"), "output out.bin is missing", 0),
    (("no-such-program",), "the command 'no-such-program' can't be run: No such file or directory", None),
    (("/etc/passwd",), "the command '/etc/passwd' can't be run: Permission denied", None),
]


def test_a_payload_that_fails_says_why(api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path) -> None:
    output = {"name": "out.bin", "url": (tmp_path / "out.bin").as_uri()}
    keys = [api.give(1 + number, *failure[0], outputs=[output]) for number, failure in enumerate(FAILURES)]
    start_pilot()
    reports = [api.report_of(key) for key in keys]
    assert {report.outcome for report in reports} == {"payload_failed"}
    assert [(report.reason, report.exit_code) for report in reports] == [failure[1:] for failure in FAILURES]
    assert not (tmp_path / "out.bin").exists()


def test_an_output_that_can_not_be_stored_is_an_infrastructure_failure(
    api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    url = (tmp_path / "file" / "below" / "out").as_uri()
    key = api.give(1, "touch", "out", outputs=[{"name": "out", "url": url}])
    start_pilot()
    report = api.report_of(key)
    assert report.outcome == "infrastructure_failed"
    assert report.reason.startswith(f"output {url}")


def test_the_payload_sees_a_clean_environment(api: ScriptedApi, start_pilot: StartPilot, workdir: Path) -> None:
    key = api.give(5, "env", environment={"GREETING": "hi", "PENSTOCK_TOKEN": "x"}, cores=2)
    start_pilot(X509_USER_PROXY="/tmp/proxy", PENSTOCK_TOKEN="operator", LANG="C.UTF-8")
    api.report_of(key)
    seen = dict(line.split("=", 1) for line in api.archived(key)["stdout.txt"].decode().splitlines())
    seen.pop("PATH")
    folder = str(workdir / "jobs" / "5-1")
    assert seen == {
        "HOME": folder,
        "TMPDIR": f"{folder}/.tmp",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "2",
        "GREETING": "hi",
        "PENSTOCK_JOB_ID": "5",
        "PENSTOCK_ATTEMPT": "1",
        "PENSTOCK_CORES": "2",
        "PENSTOCK_JOB_DIR": folder,
    }
    assert api.enrolments[0].secret == SECRET


def test_secret_and_token_are_written_nowhere(
    api: ScriptedApi, start_pilot: StartPilot, workdir: Path, tmp_path: Path
) -> None:
    start_pilot()
    api.report_of(api.give(1, "true"))
    written = b"".join(path.read_bytes() for path in (*workdir.rglob("*"), tmp_path / "pilot.log") if path.is_file())
    assert b"pilot_enrolled" in written
    assert SECRET.encode() not in written
    assert TOKEN.encode() not in written


def test_a_sandbox_is_unpacked_and_its_program_runs(api: ScriptedApi, start_pilot: StartPilot) -> None:
    sha256, content = packed(run_sh="#!/bin/sh\ncat data.txt\n", data_txt="from the sandbox")
    api.sandboxes[sha256] = content
    key = api.give(1, "./run.sh", sandbox=sha256)
    start_pilot()
    assert api.report_of(key).outcome == "succeeded"
    assert api.archived(key)["stdout.txt"] == b"from the sandbox"


def _hostile(name: str, **fields: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(mode="w:gz", fileobj=buffer) as archive:
        entry = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(entry, field, value)
        archive.addfile(entry, io.BytesIO(b"evil"[: entry.size]))
    return buffer.getvalue()


HOSTILE = [
    (_hostile("../../evil", size=4), "'../../evil' lies outside"),
    (_hostile("/tmp/penstock-evil", size=4), "'/tmp/penstock-evil' lies outside"),
    (_hostile("link", type=tarfile.SYMTYPE, linkname="/etc"), "'link' points outside"),
    (_hostile("device", type=tarfile.CHRTYPE), "'device' is neither"),
    (b"no archive", "broken archive"),
]


def test_a_hostile_sandbox_is_the_payloads_failure(api: ScriptedApi, start_pilot: StartPilot, workdir: Path) -> None:
    api.sandboxes.update({hashlib.sha256(content).hexdigest(): content for content, _ in HOSTILE})
    keys = [api.give(1 + number, "true", sandbox=sha256) for number, sha256 in enumerate(api.sandboxes)]
    start_pilot()
    for key, (_, words) in zip(keys, HOSTILE, strict=True):
        report = api.report_of(key)
        assert report.outcome == "payload_failed"
        assert words in report.reason
    # os.walk, unlike rglob, minds no folder that the pilot removes meanwhile
    assert not [folder for folder, folders, files in os.walk(workdir) if "evil" in {*folders, *files}]
    assert not Path("/tmp/penstock-evil").exists()


def test_what_a_payload_leaves_behind_is_ended(api: ScriptedApi, start_pilot: StartPilot, tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! > {tmp_path}/child; setsid sleep 300 & echo $! > {tmp_path}/daemon"
    key = api.give(1, "/bin/sh", "-c", script)
    start_pilot()
    assert api.report_of(key).outcome == "succeeded"
    assert not alive(int((tmp_path / "child").read_text()))
    assert not alive(int((tmp_path / "daemon").read_text()))


def test_a_heartbeat_carries_the_last_lines_and_the_figures(api: ScriptedApi, start_pilot: StartPilot) -> None:
    code = "import time\nfor n in range(100): print('line', n, flush=True)\nsum(range(10**7)); time.sleep(60)"
    api.give(1, sys.executable, "-c", code)
    start_pilot()
    job = eventually(
        lambda: next((job for beat in api.beats[-1:] for job in beat.jobs if job.memory and job.cpu_time), None)
    )
    assert job
    assert job.tail.splitlines()[-1] == "line 99"
    assert len(job.tail.splitlines()) == 20
    assert job.wall_time > 0
