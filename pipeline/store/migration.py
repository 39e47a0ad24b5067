"""The way from the schema that a database has to the one that this release works on."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from pipeline.errors import DatabaseUnavailable
from pipeline.store import schema
from pipeline.store.database import IO_TIMEOUT, Database

_LOCK_NAME = "penstock_schema"
_LOCK_WAIT = 60
"""Seconds that an upgrade waits for one that runs elsewhere."""
_TABLE_WAIT = 2
"""Seconds that a statement waits for a table that others use, while they wait for it."""
_PAUSE = (0.5, 2.0)
"""Between how many seconds passes until it is tried again."""
_PATIENCE = 600.0
"""Seconds for which it is."""
_HELD_UP = frozenset({1205, 1213})
"""What MySQL and MariaDB say then."""
_CHANCE = random.SystemRandom()


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration, made here and not read from a file."""
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(database: Database) -> tuple[str | None, str | None]:
    """Bring the database to this release's schema, once however many ask; the schemas before and after.

    A newer schema is left as it is. Raises DatabaseUnavailable when a statement is refused.
    """
    schema.current(database)  # waits out a server that is starting: nothing below is run again
    try:
        with _alone(database) as connection:
            before = MigrationContext.configure(connection).get_current_revision()
            if before is None or before in schema.known():
                _to_head(connection)
            return before, MigrationContext.configure(connection).get_current_revision()
    except DBAPIError as error:
        raise DatabaseUnavailable(
            f"{database.safe_url()}: the upgrade stopped: {error.orig}; mend that and run `penstock db upgrade` again"
        ) from error


def _to_head(connection: Connection) -> None:
    """Every step that is left, again where others would not let go of a table: steps that are done are passed over.

    A statement that changes a table waits for the transactions that have used it, and everybody else waits for the
    statement; where one of those waits for a row of a third, all of them would until something times out. So it gives
    up early, and they go on.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            command.upgrade(configuration(connection), "head")
        except OperationalError as error:
            connection.rollback()
            if not (_is_held_up(error) and time.monotonic() < until):
                raise
            time.sleep(_CHANCE.uniform(*_PAUSE))
        else:
            return


def _is_held_up(error: OperationalError) -> bool:
    return bool(error.orig and error.orig.args and error.orig.args[0] in _HELD_UP)


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A connection, no two of which are in here at a time (SQLite: it holds the only write lock)."""
    if database.dialect == "sqlite":
        with database.engine.begin() as connection:
            yield connection
        return
    # no time-out of its own for answers: on a large table a statement takes as long as it takes
    arguments = {"charset": "utf8mb4", "connect_timeout": IO_TIMEOUT}
    own = create_engine(
        database.engine.url, isolation_level="READ COMMITTED", poolclass=NullPool, connect_args=arguments
    )
    with own.connect() as connection:
        connection.execute(text(f"SET SESSION lock_wait_timeout = {_TABLE_WAIT}"))
        got = connection.execute(text("SELECT GET_LOCK(:name, :wait)"), {"name": _LOCK_NAME, "wait": _LOCK_WAIT})
        if got.scalar() != 1:
            raise DatabaseUnavailable(f"{database.safe_url()}: another upgrade runs for over {_LOCK_WAIT} s; try later")
        try:
            yield connection
            connection.commit()  # before the next one may look
        finally:
            connection.rollback()
            connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})
