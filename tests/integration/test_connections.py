"""A process that has used up its connections waits for one, and says in the end that it got none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from pipeline.errors import DatabaseUnavailable
from pipeline.store.database import CONNECTIONS, Database, is_transient
from tests.servers import MariaDbServer
from tests.waiting import eventually


def used_up(database: Database) -> ExitStack:
    """Take every connection that the process may have."""
    taken = ExitStack()
    for _ in range(CONNECTIONS):
        taken.enter_context(database.engine.connect())
    return taken


def opened(folder: Path) -> Database:
    return Database(f"sqlite:///{folder / 'test.db'}", patience=0.02)


def test_who_finds_no_free_connection_tries_again(tmp_path: Path) -> None:
    database = opened(tmp_path)
    with ThreadPoolExecutor(1) as pool, used_up(database) as taken:
        late = pool.submit(database.now)
        eventually(lambda: database.retries, within=20)
        taken.close()
        assert late.result(20)
    database.close()


def test_who_never_gets_a_connection_is_told_so(tmp_path: Path) -> None:
    database = opened(tmp_path)
    with used_up(database), pytest.raises(DatabaseUnavailable, match="gave up after 8 tries"):
        database.now()
    database.close()


def test_a_row_that_changed_since_it_was_read_is_read_again() -> None:
    cause = Exception(1020, "Record has changed since last read in table 'jobs'")
    assert is_transient(OperationalError("UPDATE jobs", {}, cause))


def test_who_may_not_connect_is_told_so_at_once(tmp_path: Path, mariadb_server: MariaDbServer) -> None:
    stranger = make_url(mariadb_server.new_database()).set(username="nobody", password="wrong")
    for url, reason in (
        (stranger.render_as_string(hide_password=False), "Access denied for user 'nobody'"),
        (f"sqlite:///{tmp_path / 'nowhere' / 'test.db'}", "unable to open database file"),
    ):
        database = Database(url)
        with pytest.raises(DatabaseUnavailable, match=reason) as said:
            database.now()
        assert "wrong" not in str(said.value)
        assert database.retries == 0
        database.close()
