"""Fixtures for all tests: the real servers, started once a session when a test first asks for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.database import Database
from pipeline.store.tables import metadata
from tests.servers import MariaDbServer, RedisServer, running_mariadb, running_redis


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private Redis, shared by all tests of the session; a test that minds what others left flushes it."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    """A private MariaDB; each test asks it for a `new_database()`."""
    with running_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database that has the schema and nothing else, to be copied: ten times as fast as making one."""
    file = tmp_path_factory.mktemp("schema") / "empty.db"
    made = Database(f"sqlite:///{file}")
    metadata.create_all(made.engine)
    made.close()
    return file


@pytest.fixture(params=["sqlite", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A fresh database with the schema, on each of the two real engines."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_file"), tmp_path / "test.db")
        opened = Database(f"sqlite:///{tmp_path / 'test.db'}")
        yield opened
        opened.close()
    else:
        server: MariaDbServer = request.getfixturevalue("mariadb_server")
        opened = Database(server.new_database())
        metadata.create_all(opened.engine)
        yield opened
        opened.close()
        server.drop_database(opened.url)
