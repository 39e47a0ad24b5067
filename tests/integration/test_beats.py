"""A process goes on beating whatever the database answers, not only when it can't be reached."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from pipeline.runtime.instance import Instance, identify
from pipeline.store import instances, migration
from pipeline.store.database import Database
from tests.waiting import eventually

SERVE = "from pipeline.api.server import serve; from pipeline.settings_file import load_settings as s; serve(s())"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'penstock.db'}")
    migration.upgrade(made)
    yield made
    made.close()


def last_seen(database: Database) -> datetime | None:
    """When the only instance was last seen."""
    rows = database.read(instances.list_instances)
    return rows[0].last_seen if rows else None


def rename(database: Database, before: str, after: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))


def test_an_instance_goes_on_beating_after_an_error_that_is_no_outage(database: Database) -> None:
    instance = Instance(database, identify("test"))
    instance.start()
    eventually(lambda: last_seen(database))
    rename(database, "instances", "gone")
    eventually(lambda: instance._lost)
    rename(database, "gone", "instances")
    eventually(lambda: not instance._lost)
    instance.stop()
    assert last_seen(database) is None


def test_an_api_goes_on_beating_after_an_error_that_is_no_outage(database: Database, tmp_path: Path) -> None:
    values = {"DATA_DIR": str(tmp_path), "BROKER_URL": "memory://process", "API_PORT": "0"}
    environment = {**os.environ, **{f"PENSTOCK_{name}": value for name, value in values.items()}}
    log = tmp_path / "api.log"
    with (
        log.open("w") as written,
        subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdout=written, stderr=written) as process,
    ):
        try:
            before = eventually(lambda: last_seen(database))
            rename(database, "instances", "gone")
            eventually(lambda: "no such table: instances" in log.read_text())
            rename(database, "gone", "instances")
            assert before is not None
            eventually(lambda: (last_seen(database) or before) > before)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
