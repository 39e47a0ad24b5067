"""Fixtures for all tests: the real servers, started once a session when a test first asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
