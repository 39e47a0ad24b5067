"""`penstock up`, the single processes and the Procfile: how they start, and that they leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.acceptance.commands import CommandLine
from tests.servers import RedisServer, server_folder
from tests.waiting import best_of, eventually

START = 90.0
"""Seconds that everything may take to serve on a busy machine."""
STOP = 60.0


@pytest.fixture
def line() -> Iterator[CommandLine]:
    """A machine of its own; its path is short, since that of a unix socket must be."""
    with server_folder("up") as folder:
        yield CommandLine(folder / "data")


@contextmanager
def running(line: CommandLine, *arguments: str) -> Iterator[psutil.Process]:
    """A process of ours, killed at the end if the test has not ended it; its log is in `log` beside the data."""
    process = line.start(*arguments, log=log_of(line))
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()
        for left in of(line):
            left.kill()


def log_of(line: CommandLine) -> Path:
    return line.data_dir.parent / "log"


def says(line: CommandLine, word: str) -> bool:
    return word in log_of(line).read_text()


def of(line: CommandLine) -> list[psutil.Process]:
    """Every process, whoever its parent, that was started with this data directory, zombies left out."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("PENSTOCK_DATA_DIR") == str(line.data_dir)
            if (mine or str(line.data_dir) in " ".join(process.cmdline())) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_for_end(line: CommandLine) -> None:
    eventually(lambda: not of(line), within=STOP)


def instances(line: CommandLine) -> dict[str, int]:
    """The pids of the processes that have registered, by kind."""
    return {row["kind"]: row["pid"] for row in json.loads(line.said("instances", "--json"))}


def test_up_starts_everything_restarts_what_dies_and_leaves_nothing_behind(line: CommandLine) -> None:
    ready_file = line.data_dir.parent / "ready"
    with running(line, "up", "--ready-file", str(ready_file)) as up:
        eventually(lambda: says(line, "ready http"), within=START)
        url = ready_file.read_text().strip()
        assert url == (line.data_dir / "api.url").read_text().strip()
        assert stat.S_IMODE(line.data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((line.data_dir / "token").stat().st_mode) == 0o600
        assert json.loads(line.said("campaigns", "list", "--json")) == []
        before = instances(line)
        assert set(before) == {"api", "consumer", "triggers"}

        assert "another `penstock up`" in line.complaint("up")

        os.kill(before["api"], signal.SIGKILL)
        eventually(
            lambda: instances(line)["api"] != before["api"] and line.run("jobs", "list").returncode == 0, within=START
        )
        assert (line.data_dir / "api.url").read_text().strip() == url, "pilots would look for it in vain"

        up.send_signal(signal.SIGTERM)
        assert up.wait(STOP) == 0
        wait_for_end(line)
        assert not ready_file.exists()

    with running(line, "up") as up:
        eventually(lambda: says(line, "ready http"), within=START)
        up.kill()
        wait_for_end(line)


def test_up_ends_the_pilots_of_this_machine(line: CommandLine) -> None:
    with running(line, "up") as up:
        eventually(lambda: says(line, "ready http"), within=START)
        pilot = line.data_dir / "local-batch" / "A-short" / "tag"
        pilot.mkdir(parents=True)
        other = subprocess.Popen(["sleep", "600"], start_new_session=True)
        started = (Path("/proc") / str(other.pid) / "stat").read_text().rpartition(")")[2].split()[19]
        (pilot / "pid").write_text(f"{other.pid} {started}\n")
        (pilot.parent / "reused").mkdir()
        (pilot.parent / "reused" / "pid").write_text(f"{os.getpid()} 1\n")
        up.send_signal(signal.SIGINT)
        assert other.wait(STOP) == -signal.SIGTERM
        assert up.wait(STOP) == 0


def test_up_refuses_a_database_of_somebody_elses_with_an_old_schema(line: CommandLine, tmp_path: Path) -> None:
    line.settings["PENSTOCK_DATABASE_URL"] = f"sqlite:///{tmp_path / 'other.db'}"
    assert line.complaint("up").endswith("has no Penstock schema; run `penstock db upgrade`")


def test_a_process_whose_settings_are_wrong_ends_up_at_once(line: CommandLine, redis_server: RedisServer) -> None:
    line.settings |= {"PENSTOCK_API_PORT": str(redis_server.port), "PENSTOCK_BROKER_URL": redis_server.url}
    done = line.run("up")
    assert done.returncode == 2
    assert "api" in done.stdout
    assert "PENSTOCK_API_PORT: can't listen" in done.stdout
    wait_for_end(line)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["api"], "startup complete"),
        (["consume", "upkeep", "data"], "consumer_started"),
        (["triggers"], "triggers_started"),
    ],
)
def test_an_idle_process_ends_at_sigterm_with_0_in_less_than_a_second(
    line: CommandLine, redis_server: RedisServer, arguments: list[str], word: str
) -> None:
    line.settings["PENSTOCK_BROKER_URL"] = redis_server.url
    line.said("db", "upgrade")

    def seconds_until_it_ends() -> float:
        with running(line, *arguments) as process:
            eventually(lambda: says(line, word), within=START)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP) == 0, log_of(line).read_text()
            taken = time.monotonic() - begun
            wait_for_end(line)
        return taken

    best_of(3, seconds_until_it_ends, bound=1.0)


def test_the_procfile_runs_with_honcho(line: CommandLine, tmp_path: Path) -> None:
    line.said("db", "upgrade")
    procfile = tmp_path / "Procfile"
    shutil.copyfile(Path(__file__).parents[2] / "Procfile", procfile)
    programs = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log_of(line).open("wb") as log:
        honcho = subprocess.Popen(
            [sys.executable, "-m", "honcho", "start", "-f", str(procfile)],
            env=line.environment | programs, stdout=log, stderr=log, cwd=tmp_path,
        )  # fmt: skip
    try:
        eventually(lambda: len(json.loads(line.said("instances", "--json"))) == 7, within=START, every=1.0)
        honcho.send_signal(signal.SIGTERM)
        honcho.wait(STOP)
        wait_for_end(line)
    finally:
        honcho.kill()
        honcho.wait()
        for left in of(line):
            left.kill()


def test_the_private_redis_answers_on_its_socket_alone(line: CommandLine) -> None:
    with running(line, "redis") as redis:
        found = eventually(lambda: line.run("doctor", "--json").stdout.count('"broker",\n    "ok": true'), within=START)
        assert found
        assert redis.net_connections(kind="inet") == []
        redis.send_signal(signal.SIGTERM)
        assert redis.wait(STOP) == 0
