"""What a payload may see of its pilot, where both run under one account that is not root; and what older APIs hear."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.pilot.conftest import StartPilot
from tests.integration.pilot.scripted_api import SECRET, ScriptedApi
from tests.waiting import eventually

NOBODY = 65534
LOOK = """
for path in $(grep -l "$FOLDER/[p]enstock-pilot.pyz" /proc/[0-9]*/cmdline 2>/dev/null); do
    pid=$(basename "$(dirname "$path")")
    cat "/proc/$pid/environ" 2>/dev/null | tr '\\0' '\\n' | sed 's,^,saw ,'
    ls "/proc/$pid/fd" 2>/dev/null | sed "s,^,of $pid fd ,"
    echo "met $pid"
done
env | sed 's,^,saw ,'
ls -l /proc/$$/fd | sed -n 's/.* -> /open /p'
mkdir -p locked/inner; touch locked/inner/file; chmod 500 locked/inner locked
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account may look into, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_payload_sees_nothing_of_its_pilot_and_can_lock_nothing_up(
    api: ScriptedApi, pilot_file: Path, open_folder: Path
) -> None:
    program = Path(shutil.copy(pilot_file, open_folder / "penstock-pilot.pyz"))
    workdir = open_folder / "work"
    workdir.mkdir(mode=0o700)
    os.chown(workdir, NOBODY, NOBODY)
    program.chmod(0o644)
    key = api.give(1, "/bin/sh", "-c", LOOK, environment={"FOLDER": str(open_folder)})
    command = ["/usr/bin/python3", str(program), "--api-url", api.url, "--tag", "t", "--workdir", str(workdir)]
    command += ["--cores", "1", "--memory", "1000", "--disk", "1000", "--idle-limit", "0.5"]
    variables = {"PATH": os.environ["PATH"], "PENSTOCK_PILOT_SECRET": SECRET, "PENSTOCK_PILOT_CONTAINERS": "none"}
    secrets = {"https_proxy": "http://user:password@proxy.invalid", "BEARER_TOKEN": "of the batch job"}
    with (open_folder / "inherited").open("w") as inherited:
        descriptor = inherited.fileno()
        pilot = subprocess.Popen(
            command,
            env={**variables, **secrets, "no_proxy": "127.0.0.1"},
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            pass_fds=[descriptor],
            cwd="/",
        )
    assert pilot.wait(30) == 0
    report = api.report_of(key)
    assert report.outcome == "succeeded", report
    lines = [line.split(" ", 1) for line in api.archived(key)["stdout.txt"].decode().splitlines()]
    met = {words for kind, words in lines if kind == "met"}
    assert len(met) == 3  # the pilot, its warden, this payload's guardian
    seen = " ".join(words for kind, words in lines if kind == "saw")
    assert "PENSTOCK_JOB_ID=1" in seen
    for secret in (SECRET, "PENSTOCK_PILOT_", "password", "of the batch job"):
        assert secret not in seen
    assert not [words for kind, words in lines if kind == "of"]
    opened = [words for kind, words in lines if kind == "open"]
    assert [words.partition(":")[0] for words in opened[:3]] == ["/dev/null", "pipe", "pipe"]
    assert not [words for words in opened if "inherited" in words or "socket" in words]
    assert not list((workdir / "jobs").iterdir())


def test_an_api_that_knows_no_words_for_ends_gets_the_rest(api: ScriptedApi, start_pilot: StartPilot) -> None:
    api.unknown = {"report": "minor"}
    failed, fine = api.give(1, "false"), api.give(2, "true")
    start_pilot()
    assert api.report_of(fine).outcome == "succeeded"
    report = api.report_of(failed)
    assert (report.outcome, report.minor, report.reason) == ("payload_failed", None, "exit code 1")
    assert eventually(lambda: api.beats and not api.beats[-1].jobs)
