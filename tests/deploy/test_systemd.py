"""The systemd units: understood by systemd, locked up, and with the time to drain."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime.spec import declared_queues
from tests.deploy.manifests import SYSTEMD, env_file, settings_of, unit_sections
from tests.documentation import ROOT
from tests.previous_release import previous_release
from tests.servers import find_program

PROGRAM = "/opt/penstock/bin/penstock"
UNITS = ("penstock-api.service", "penstock-triggers.service", "penstock-consumer@.service", "penstock-migrate.service")
EXPOSURE = 20
"""The most that `systemd-analyze security` may say, in tenths: below 2 of 10 is its "OK" with room to spare."""
END = 10.0


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they lie in /etc/systemd/system, with a program in the place of ours."""
    folder = tmp_path / "system"
    shutil.copytree(SYSTEMD, folder)
    for unit in folder.glob("*.service"):
        unit.write_text(unit.read_text().replace(PROGRAM, find_program(["true"], "coreutils")))
    return folder


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = find_program(["systemd-analyze"], "systemd")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_understands_every_line(installed: Path) -> None:
    instances = [f"penstock-consumer@{queue}.service" for queue in declared_queues()]
    units = [f"./{unit}" for unit in (*UNITS, *instances, "penstock.target")]
    done = analyze(installed, "verify", "--man=no", "--recursive-errors=yes", *units)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_line_that_systemd_does_not_understand_is_found(installed: Path) -> None:
    drop_in = installed / "penstock-.service.d" / "all.conf"
    drop_in.write_text(drop_in.read_text() + "KillMood=mixed\n")
    assert "KillMood" in analyze(installed, "verify", "--man=no", "./penstock-api.service").stderr


@pytest.mark.parametrize("unit", [*UNITS, "penstock-consumer@pilots.service"])
def test_a_unit_is_locked_up(installed: Path, unit: str) -> None:
    done = analyze(installed, "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", f"./{unit}")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_has_the_time_to_drain_and_comes_back(unit: str) -> None:
    instance = "matching" if "@" in unit else ""
    said = {key: value for section, key, value in unit_sections(unit, instance) if section == "Service"}
    deadline = settings_of(env_file(SYSTEMD / "penstock.env.example")).drain_deadline
    assert float(said["TimeoutStopSec"]) >= deadline + END
    assert said["KillMode"] == "mixed"  # else the pool gets the SIGTERM as well, in the middle of a batch
    assert said["Restart"] == "on-failure"
    assert said["User"] == "penstock"
    if unit != "penstock-migrate.service":
        assert said["ExecReload"] == "/bin/kill -HUP $MAINPID"
        # a reload that comes before the process minds SIGHUP ends it, which is a clean end for `on-failure`
        assert said["RestartForceExitStatus"] == "SIGHUP"


def test_pilots_of_this_machine_outlive_their_consumer() -> None:
    said = {key: value for _, key, value in unit_sections("penstock-consumer@.service", "pilots")}
    assert said["KillMode"] == "process"
    # else their /tmp is removed with the service, under payloads that go on
    assert (said["PrivateTmp"], said["RemoveIPC"]) == ("no", "no")
    assert {"/tmp", "/var/tmp"} <= set(said["ReadWritePaths"].split())


def test_settings_are_read_by_the_process_so_that_it_can_be_given_new_ones() -> None:
    """What the environment says wins over the file, and stays as it is for as long as the process lives."""
    said = list(unit_sections("penstock-api.service"))
    variables = " ".join(value for _, key, value in said if key == "Environment").split()
    files = [value for _, key, value in said if key == "EnvironmentFile"]
    assert {word for word in variables if word.startswith("PENSTOCK_")} == {
        "PENSTOCK_DATA_DIR=%S/penstock",
        "PENSTOCK_SETTINGS_FILE=/etc/penstock/penstock.env",
    }
    assert "/etc/penstock/penstock.env" not in [file.lstrip("-") for file in files]


def test_the_release_before_finds_the_same_database_by_the_way_back_that_is_told(tmp_path: Path) -> None:
    """0.4.0 knows no settings file: without its settings it would begin a new SQLite, and say that all is well."""
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
    [told] = re.findall(r"printf '\[Service\]\\nEnvironmentFile=(\S+)\\n' >", page)
    said = [value for _, key, value in unit_sections("penstock-api.service") if key == "Environment"]
    assert f"PENSTOCK_SETTINGS_FILE={told}" in said
    before = previous_release(tmp_path)
    program = "from pipeline.settings import load_settings; print(load_settings().resolved_database_url())"
    settings = env_file(SYSTEMD / "penstock.env.example")
    environment = {**before.variables, **settings, "PENSTOCK_SETTINGS_FILE": told, "PENSTOCK_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=before.folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == settings["PENSTOCK_DATABASE_URL"]


def test_processes_of_all_machines_can_be_monitored() -> None:
    settings = settings_of(env_file(SYSTEMD / "penstock.env.example"))
    assert (settings.api_host, settings.health_host) == ("0.0.0.0", "0.0.0.0")  # noqa: S104 - it is compared


def test_what_processes_write_is_writable() -> None:
    folder = settings_of(env_file(SYSTEMD / "penstock.env.example")).sandbox_url.removeprefix("file://")
    said = {key: value for _, key, value in unit_sections("penstock-api.service")}
    assert re.fullmatch(rf"-?{folder}", said["ReadWritePaths"])
    assert said["StateDirectory"] == "penstock"
