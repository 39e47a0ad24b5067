"""SIGHUP at the API, the clock and `penstock up`, as systemd or an operator sends it."""

from __future__ import annotations

import json
import os
import pty
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from pipeline.store.database import Database
from pipeline.store.tables import trigger_runs
from tests.acceptance.commands import CommandLine
from tests.servers import server_folder
from tests.waiting import eventually

START = 90.0
"""Seconds that everything may take to serve on a busy machine."""
SIGNALS = 100


@pytest.fixture
def line() -> Iterator[CommandLine]:
    """A machine of its own with a settings file; its path is short, since that of a unix socket must be."""
    with server_folder("reload") as folder:
        (folder / "penstock.env").write_text("")
        yield CommandLine(folder / "data", {"PENSTOCK_SETTINGS_FILE": str(folder / "penstock.env")})


@pytest.fixture
def alone(line: CommandLine) -> CommandLine:
    """Where a single process runs, with a database and a broker of its own."""
    line.settings["PENSTOCK_BROKER_URL"] = "memory://reload"
    line.said("db", "upgrade")
    return line


def says(line: CommandLine, *words: str) -> list[str]:
    """The lines of the log that have all of these."""
    log = (line.data_dir.parent / "log").read_text()
    return [shown for shown in log.splitlines() if all(word in shown for word in words)]


def write(line: CommandLine, text: str) -> None:
    (line.data_dir.parent / "penstock.env").write_text(text)


@contextmanager
def running(line: CommandLine, *arguments: str, until: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, once its log says so; ended if it has not."""
    process = line.start(*arguments, log=line.data_dir.parent / "log")
    try:
        eventually(lambda: says(line, until) or process.poll() is not None, within=START)
        assert process.poll() is None, says(line)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def test_a_hundred_signals_are_one_reload_of_the_api_and_its_routes_go_by_it(alone: CommandLine) -> None:
    with running(alone, "api", until="api_started") as process:
        url = (alone.data_dir / "api.url").read_text().strip()
        token = alone.said("tokens", "bootstrap").strip()
        sandbox = os.urandom(1_200_000)

        def put() -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/gzip"}
            return httpx.put(f"{url}/v1/sandboxes/{'0' * 64}", content=sandbox, headers=headers)

        assert "MiB" not in put().text
        write(alone, "PENSTOCK_SANDBOX_LIMIT=1\nPENSTOCK_HEALTH_PORT=1\n")
        for _ in range(SIGNALS):
            process.send_signal(signal.SIGHUP)
        eventually(lambda: says(alone, "needs_restart", "PENSTOCK_HEALTH_PORT"))
        assert "may have 1 MiB" in put().text
        write(alone, "PENSTOCK_SANDBOX_LIMIT=10\nPENSTOCK_SANDBOX_LIMITS=1\n")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: says(alone, "settings_refused", "line 2: there is no setting PENSTOCK_SANDBOX_LIMITS"))
        assert "may have 1 MiB" in put().text
    assert process.returncode == 0
    assert len(says(alone, "settings_reloaded")) == 1


def test_a_renewed_certificate_is_served_and_a_broken_one_is_refused(alone: CommandLine, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def renew() -> str:
        made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
        subprocess.run(["openssl", *made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        return certificate.read_text()

    first = renew()
    write(alone, f"PENSTOCK_API_TLS_CERTIFICATE={certificate}\nPENSTOCK_API_TLS_KEY={key}\n")
    with running(alone, "api", until="api_started") as process:
        port = int((alone.data_dir / "api.url").read_text().strip().rpartition(":")[2])

        def served() -> str:
            return ssl.get_server_certificate(("127.0.0.1", port)).strip()

        assert served() == first.strip()
        certificate.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: says(alone, "settings_refused", "PENSTOCK_API_TLS_CERTIFICATE"))
        assert served() == first.strip()
        second = renew()
        process.send_signal(signal.SIGHUP)
        eventually(lambda: served() == second.strip())


def test_the_clock_goes_by_a_new_schedule(alone: CommandLine) -> None:
    write(alone, 'PENSTOCK_SCHEDULES={"reconcile": "0 0 1 1 *"}\n')
    database = Database(f"sqlite:///{alone.data_dir / 'penstock.db'}")

    def ticks() -> int:
        query = select(func.count()).select_from(trigger_runs).where(trigger_runs.c.name == "reconcile")
        return int(database.read(lambda tx: tx.scalar(query)))

    with running(alone, "triggers", until="triggers_started") as process:
        eventually(ticks)  # that of the first of January, which is long over
        before = ticks()
        write(alone, 'PENSTOCK_SCHEDULES={"reconcile": "* * * * * *"}\n')
        process.send_signal(signal.SIGHUP)
        eventually(lambda: ticks() >= before + 3)
    assert process.returncode == 0
    database.close()


def test_up_passes_a_reload_on_when_it_is_valid(line: CommandLine) -> None:
    def pids() -> dict[str, int]:
        return {row["kind"]: row["pid"] for row in json.loads(line.said("instances", "--json"))}

    with running(line, "up", until="ready http") as process:
        before = pids()
        write(line, "PENSTOCK_SANDBOX_LIMIT=0\n")
        for _ in range(SIGNALS):
            process.send_signal(signal.SIGHUP)
        eventually(lambda: says(line, "settings_refused"))
        write(line, "PENSTOCK_SANDBOX_LIMIT=1\n")
        for _ in range(SIGNALS):
            process.send_signal(signal.SIGHUP)
        for kind in ("up", *before):
            eventually(lambda kind=kind: says(line, "settings_reloaded", f"penstock-{kind}"))  # type: ignore[misc]
        assert len(says(line, "settings_reloaded")) == 1 + len(before)
        assert pids() == before
        assert len(says(line, "settings_refused")) == 1, "the others were not asked"
    assert process.returncode == 0


@pytest.mark.parametrize("nohup", [False, True])
def test_a_process_ends_with_its_terminal_unless_it_was_started_with_nohup(alone: CommandLine, *, nohup: bool) -> None:
    master, slave = pty.openpty()
    log = alone.data_dir.parent / "log"
    words = [*(["nohup"] if nohup else []), sys.executable, "-m", "pipeline.cli", "triggers"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *words],
            env=alone.environment, stdin=slave, stdout=stream, stderr=stream,
        )  # fmt: skip
    os.close(slave)
    eventually(lambda: says(alone, "triggers_started") or process.poll() is not None, within=START)
    (clock,) = [row["pid"] for row in json.loads(alone.said("instances", "--json"))]
    os.close(master)
    if nohup:
        process_of = psutil.Process(clock)
        write(alone, "PENSTOCK_SANDBOX_LIMIT=1\n")
        process_of.send_signal(signal.SIGHUP)
        eventually(lambda: says(alone, "settings_reloaded", "PENSTOCK_SANDBOX_LIMIT"))
        process_of.terminate()
    process.wait(30)
    assert says(alone, "triggers_ended")
