"""The way past the API: operators' commands that must work while it is down."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.cli.options import session
from pipeline.errors import BadInput
from pipeline.logs import configure_logging
from pipeline.runtime.spec import declared_queues
from pipeline.settings import Settings
from pipeline.store import schema
from pipeline.store.database import Database
from pipeline.transport.port import Transport, open_transport


@contextmanager
def opened_database(settings: Settings, *, checked: bool = True) -> Iterator[Database]:
    """The database, its schema checked unless `checked` says otherwise. Raises SchemaMismatch, DatabaseUnavailable."""
    quiet(settings)
    database = Database(settings.resolved_database_url())
    try:
        if checked:
            schema.check(database)
        yield database
    finally:
        database.close()


@contextmanager
def opened_transport(settings: Settings) -> Iterator[Transport]:
    """The broker. Raises BadSettings, BrokerUnavailable."""
    quiet(settings)
    transport = open_transport(settings.resolved_broker_url(), f"cli-{socket.gethostname()}-{os.getpid()}")
    try:
        yield transport
    finally:
        transport.close()


def quiet(settings: Settings) -> None:
    """A command says what went wrong itself, once: only --debug shows what was retried on the way."""
    level = "debug" if session().debug else "error"
    configure_logging(settings.model_copy(update={"log_level": level}), "cli")


def known_queue(name: str) -> str:
    """`name`. Raises BadInput for a queue that no consumer serves."""
    if name not in declared_queues():
        raise BadInput(f"there is no queue {name!r}; there are {', '.join(declared_queues())}")
    return name


def who() -> str:
    """Who gives this command, for rows that say by whom."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # no entry for the uid, as in containers with one of their own
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"
