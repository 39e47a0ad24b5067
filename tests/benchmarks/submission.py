"""How fast an array of jobs arrives in MariaDB and in SQLite, by the API's own submission."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.store import migration
from pipeline.store.database import Database
from tests.benchmarks.figures import Figure
from tests.servers import running_mariadb
from tests.submitting import array, submit

JOBS = 100_000
REPEATS = 3


@contextmanager
def databases() -> Iterator[dict[str, Database]]:
    """A fresh database of each kind, with the schema."""
    with running_mariadb() as server, tempfile.TemporaryDirectory() as folder:
        opened = {
            "MariaDB": Database(server.new_database()),
            "SQLite": Database(f"sqlite:///{Path(folder) / 'bench.db'}"),
        }
        for database in opened.values():
            migration.upgrade(database)
        yield opened
        for database in opened.values():
            database.close()


def measure() -> list[Figure]:
    """The best of three submissions of 100,000 jobs each."""
    figures = []
    with databases() as opened:
        for name, database in opened.items():
            rates = []
            for _ in range(REPEATS):
                begun = time.perf_counter()
                submit(database, {"name": "array", **array(JOBS)})
                rates.append(JOBS / (time.perf_counter() - begun))
            figures.append(Figure(f"array submission, {JOBS:,} jobs in one call", name, max(rates), "jobs/s"))
    return figures
