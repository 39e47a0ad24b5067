"""The commands of the Procfile and of the systemd units start the real thing; all others say the same commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from pipeline.runtime.spec import declared_queues
from pipeline.store.database import Database
from pipeline.store.instances import InstanceRow, list_instances
from tests.deploy.manifests import SYSTEMD, pods, unit_sections
from tests.deploy.test_compose import services
from tests.deploy.test_systemd import PROGRAM, UNITS
from tests.documentation import ROOT
from tests.servers import MariaDbServer, RedisServer, free_port
from tests.waiting import eventually

START = 90.0
"""Seconds that all of them may take to be ready on a busy machine."""
STOP = 60.0

Command = tuple[str, ...]


def procfile() -> list[Command]:
    """What the Procfile starts, without the program's name."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    commands = [shlex.split(line.partition(":")[2]) for line in lines]
    assert {command[0] for command in commands} == {"penstock"}
    return [tuple(command[1:]) for command in commands]


def units() -> list[Command]:
    """What the units start, the template's for each queue."""
    commands = []
    for unit in UNITS:
        for instance in declared_queues() if "@" in unit else ("",):
            [started] = [shlex.split(value) for _, key, value in unit_sections(unit, instance) if key == "ExecStart"]
            assert started[0] == PROGRAM
            commands.append(tuple(started[1:]))
    return commands


class Machine:
    """A bare machine with the units' settings file, on servers of the tests."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        own = {
            "PENSTOCK_SETTINGS_FILE": str(folder / "penstock.env"),
            "PENSTOCK_DATA_DIR": str(folder),
            "PENSTOCK_DATABASE_URL": database_url,
            "PENSTOCK_BROKER_URL": broker_url,
            "PENSTOCK_SANDBOX_URL": f"file://{folder / 'sandboxes'}",
            "PENSTOCK_API_HOST": "127.0.0.1",
            "PENSTOCK_HEALTH_HOST": "127.0.0.1",
            "PENSTOCK_API_PORT": "0",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = kept | own | {"PATH": path}
        shutil.copyfile(SYSTEMD / "penstock.env.example", folder / "penstock.env")
        self.database = Database(database_url)
        self.running: dict[Command, subprocess.Popen[bytes]] = {}
        self._folder = folder

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """A program that goes on running; its log is beside its data."""
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self._folder)
        self.running[tuple(command)] = process
        return process

    def code(self, command: Sequence[str]) -> int:
        """How a program ends that does."""
        process = self.start(command)
        del self.running[tuple(command)]
        return process.wait(STOP)

    def change_setting(self, line: str) -> None:
        """A line more in the settings file."""
        with (self._folder / "penstock.env").open("a") as file:
            file.write(f"{line}\n")

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def ready(self) -> list[InstanceRow]:
        """The processes whose /readyz says yes; AssertionError when one has ended."""
        assert {process.poll() for process in self.running.values()} <= {None}, self.log()
        registered = self.database.read(list_instances)
        return [row for row in registered if row.health_url and _says_yes(f"{row.health_url}/readyz")]


def _says_yes(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.fixture
def machine(tmp_path: Path, mariadb_server: MariaDbServer, redis_server: RedisServer) -> Iterator[Machine]:
    redis_server.flush()
    found = Machine(tmp_path, mariadb_server.new_database(), redis_server.url)
    yield found
    for process in found.running.values():
        process.kill()
        process.wait()
    found.database.close()
    mariadb_server.drop_database(found.environment["PENSTOCK_DATABASE_URL"])


def test_the_commands_start_the_real_thing_and_end_it_with_0(machine: Machine) -> None:
    commands = set(procfile()) | set(units())
    upgrade = ("db", "upgrade")
    waiter = machine.start(next(pod.spec["initContainers"][0]["command"] for pod in pods("base") if "api" in pod.name))

    for _ in range(2):  # as on every machine, at every start
        assert machine.code(["penstock", *upgrade]) == 0, machine.log()
    assert waiter.wait(STOP) == 0, machine.log()  # the pods go on once the Job is done
    machine.running.clear()

    for command in commands - {upgrade}:
        machine.start(["penstock", *command])
    expected = len(commands - {upgrade, ("redis",)})
    eventually(lambda: len(machine.ready()) == expected, within=START, every=0.5)
    rows = machine.ready()
    assert {queue for row in rows for queue in row.queues} == set(declared_queues())
    for row in rows:  # what compose asks its containers, asked of these
        asked = services()[row.queues[0] if row.queues else row.kind]["healthcheck"]["test"][1:]
        assert machine.code(_elsewhere(asked, str(row.health_url))) == 0, machine.log()
    assert machine.code(_elsewhere(asked, f"http://127.0.0.1:{free_port()}")) != 0

    machine.change_setting("PENSTOCK_COOL_OFF=61")
    for command, process in machine.running.items():
        if command[1:] in units():
            process.send_signal(signal.SIGHUP)  # ExecReload
    eventually(lambda: machine.log().count('"message": "settings_reloaded"') == expected, within=STOP)
    assert len(machine.ready()) == expected

    for process in machine.running.values():
        process.send_signal(signal.SIGTERM)
    codes = {command: process.wait(STOP) for command, process in machine.running.items()}
    assert codes == dict.fromkeys(codes, 0), machine.log()


def _elsewhere(command: Sequence[str], url: str) -> list[str]:
    return [re.sub(r"http://127\.0\.0\.1:847\d", url, word) for word in command]


def test_containers_run_nothing_else() -> None:
    started = set(procfile()) | set(units())
    contained = {pod.command() for pod in pods("base")} | {tuple(service["command"]) for service in services().values()}
    assert contained == started - {("redis",)}
