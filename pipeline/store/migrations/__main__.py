"""Draft the next migration: `python -m pipeline.store.migrations "files: remember who wrote them"`.

Upgrades an empty SQLite database to the newest migration and writes down how `tables.py` differs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command

from pipeline.store import migration, schema
from pipeline.store.database import Database


def draft(message: str) -> None:
    """Write `versions/NNNN_*.py`; read it over before it is committed."""
    number = len(schema.known()) + 1
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'draft.db'}")
        migration.upgrade(database)
        with database.engine.begin() as connection:
            configuration = migration.configuration(connection)
            command.revision(configuration, message, autogenerate=True, rev_id=f"{number:04d}")
        database.close()


draft(" ".join(sys.argv[1:]) or "unnamed")
