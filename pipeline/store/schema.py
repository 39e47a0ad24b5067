"""Which schema a database has, and which one this release works on.

Migrations follow expand-and-contract: a release works on its own schema and on newer ones, so a process
refuses only what is older. Nothing here loads Alembic, which every process would else spend its start on.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from pipeline.errors import SchemaMismatch
from pipeline.store.database import Database, Transaction

MIGRATIONS = Path(__file__).parent / "migrations"


def known() -> list[str]:
    """The schemas that this release knows, oldest first: its migrations' numbers."""
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def head() -> str:
    """The newest schema that this release knows."""
    return known()[-1]


def current(database: Database) -> str | None:
    """The schema that the database has; None for a database without one."""
    return database.read(_current)


def check(database: Database) -> None:
    """Raises SchemaMismatch, with the command that mends it, when the database's schema is older than ours."""
    found = current(database)
    if found is None:
        raise SchemaMismatch(f"{database.safe_url()} has no Penstock schema; run `penstock db upgrade`")
    if found in known()[:-1]:
        raise SchemaMismatch(
            f"{database.safe_url()} has schema {found}, this release works on {head()}; run `penstock db upgrade`"
        )


def _current(tx: Transaction) -> str | None:
    if not inspect(tx.connection).has_table("alembic_version"):
        return None
    found = tx.connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
