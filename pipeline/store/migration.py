"""The way from the schema that a database has to the one that this release works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from pipeline.errors import DatabaseUnavailable
from pipeline.store import schema
from pipeline.store.database import Database

_LOCK_NAME = "penstock_schema"
_LOCK_WAIT = 60
"""Seconds that an upgrade waits for one that runs elsewhere."""


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
                command.upgrade(configuration(connection), "head")
            return before, MigrationContext.configure(connection).get_current_revision()
    except DBAPIError as error:
        raise DatabaseUnavailable(
            f"{database.safe_url()}: the upgrade stopped: {error.orig}; mend that and run `penstock db upgrade` again"
        ) from error


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A connection, no two of which are in here at a time (SQLite: it holds the only write lock)."""
    if database.dialect == "sqlite":
        with database.engine.begin() as connection:
            yield connection
        return
    with database.engine.connect() as connection:
        got = connection.execute(text("SELECT GET_LOCK(:name, :wait)"), {"name": _LOCK_NAME, "wait": _LOCK_WAIT})
        if got.scalar() != 1:
            raise DatabaseUnavailable(f"{database.safe_url()}: another upgrade runs for over {_LOCK_WAIT} s; try later")
        try:
            yield connection
            connection.commit()  # before the next one may look
        finally:
            connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})
