"""The API as a process of its own: listens, registers, ends cleanly."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pipeline.store import instances, migration
from pipeline.store.database import Database
from pipeline.store.instances import InstanceRow
from tests.waiting import best_of, eventually

SERVE = "from pipeline.api.server import serve; from pipeline.settings_file import load_settings as s; serve(s())"


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """An API process whose data are in `folder`."""
    values = {"DATA_DIR": str(folder), "BROKER_URL": "memory://process", "API_PORT": "0", **settings}
    environment = {**os.environ, **{f"PENSTOCK_{name}": value for name, value in values.items()}}
    with subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def url_in(folder: Path) -> str:
    """What the process wrote down."""
    eventually((folder / "api.url").exists, within=30)
    return (folder / "api.url").read_text().strip()


def stopped(process: subprocess.Popen[str]) -> tuple[int, float]:
    """The exit code after SIGTERM, and the seconds until then."""
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    return process.wait(30), time.monotonic() - begun


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'penstock.db'}")
    migration.upgrade(opened)
    yield opened
    opened.close()


def registered(database: Database) -> list[InstanceRow]:
    return database.transact(instances.list_instances)


def test_it_serves_registers_and_ends_in_less_than_a_second_on_sigterm(tmp_path: Path, database: Database) -> None:
    def seconds_until_it_ends() -> float:
        with serving(tmp_path) as process:
            assert httpx.get(f"{url_in(tmp_path)}/readyz").status_code == 200
            (row,) = eventually(lambda: registered(database))
            assert (row.kind, row.pid) == ("api", process.pid)
            code, seconds = stopped(process)
        assert code == 0
        assert not registered(database)
        assert not (tmp_path / "api.url").exists()
        return seconds

    best_of(3, seconds_until_it_ends, bound=1.0)


def test_one_that_listens_on_all_addresses_is_found_by_others_by_the_name_of_its_machine(
    tmp_path: Path, database: Database
) -> None:
    with serving(tmp_path, API_HOST="0.0.0.0"):  # noqa: S104
        here = url_in(tmp_path)
        (row,) = eventually(lambda: registered(database))
        port = here.rpartition(":")[2]
        assert (here, row.health_url) == (f"http://127.0.0.1:{port}", f"http://{socket.gethostname()}:{port}")


def test_draining_its_instance_ends_it(tmp_path: Path, database: Database) -> None:
    with serving(tmp_path) as process:
        url_in(tmp_path)
        (row,) = eventually(lambda: registered(database))
        database.transact(lambda tx: instances.drain_instance(tx, row.id))
        assert process.wait(30) == 0


def test_it_ends_while_the_database_takes_no_writes(tmp_path: Path, database: Database) -> None:
    with serving(tmp_path) as process:
        assert httpx.get(f"{url_in(tmp_path)}/readyz").status_code == 200
        eventually(lambda: registered(database))
        with database.engine.begin() as writing:  # which nobody else can do until it is over
            writing.exec_driver_sql("DELETE FROM vos WHERE id = 0")
            assert stopped(process)[0] == 0
    assert registered(database), "it could not take its entry away"


def test_it_refuses_a_database_without_the_schema_and_says_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        assert process.wait(30) != 0
        assert process.stderr is not None
        assert "penstock db upgrade" in process.stderr.read()


def test_a_port_that_is_taken_is_named(tmp_path: Path, database: Database) -> None:
    del database
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving(tmp_path, API_PORT=port) as process:
            assert process.wait(30) != 0
            assert process.stderr is not None
            assert f"can't listen on 127.0.0.1:{port}" in process.stderr.read()


def test_it_speaks_tls_when_it_has_a_certificate(tmp_path: Path, database: Database) -> None:
    del database
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run(["openssl", *made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with serving(tmp_path, API_TLS_CERTIFICATE=str(certificate), API_TLS_KEY=str(key)) as process:
        url = url_in(tmp_path)
        assert url.startswith("https://")
        trust = ssl.create_default_context(cafile=certificate)
        assert httpx.get(f"{url}/livez", verify=trust).status_code == 200
        assert stopped(process)[0] == 0
