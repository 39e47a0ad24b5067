"""What must be there before the first process starts: the folder, the lock, the schema, a token."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import BadSettings, Conflict, Unauthorized
from pipeline.settings import Settings
from pipeline.store import migration, schema
from pipeline.store.access import authenticate, bootstrap
from pipeline.store.database import Database

_LOCK_PATIENCE = 10.0
"""Seconds that a Redis of a killed `penstock up` may still take to end; it holds the lock until then."""


@contextmanager
def locked_folder(folder: Path) -> Iterator[int]:
    """The data directory, mode 0700, for this process alone; gives the lock's file descriptor.

    Raises Conflict when another `penstock up` has it, BadSettings when it can't be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BadSettings(f"PENSTOCK_DATA_DIR: {error.filename or folder}: {error.strerror}") from error
    try:
        _acquire(lock, folder)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def prepare_database(settings: Settings, *, upgrade: bool) -> str | None:
    """See to the schema and to a token; a line about what was done, if anything was.

    The embedded database is upgraded, one that somebody set only with `upgrade`: others may work on it.
    Raises SchemaMismatch, DatabaseUnavailable.
    """
    database = Database(settings.resolved_database_url())
    try:
        if upgrade or not settings.database_url:
            migration.upgrade(database)
        else:
            schema.check(database)
        return _ensure_token(settings, database)
    finally:
        database.close()


def _acquire(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode().strip()
            if (holder.isdigit() and Path(f"/proc/{holder}").exists()) or time.monotonic() > deadline:
                raise Conflict(
                    f"another `penstock up` (process {holder or 'unknown'}) runs in {folder}; end that one, "
                    "or set PENSTOCK_DATA_DIR to another folder"
                ) from None
            time.sleep(0.1)
        else:
            return


def _ensure_token(settings: Settings, database: Database) -> str | None:
    note = settings.resolved_data_dir() / "token"
    if settings.token or (note.exists() and (settings.database_url or _serves(database, note.read_text().strip()))):
        return None
    token = database.transact(bootstrap)
    partial = note.with_name("token.new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(token + "\n")
    partial.replace(note)
    return f"an operator's token for the VO `default` was written to {note}"


def _serves(database: Database, token: str) -> bool:
    """Whether the embedded database knows a token; one from a database that was deleted does not serve."""
    try:
        database.transact(lambda tx: authenticate(tx, token))
    except Unauthorized:
        return False
    return True
