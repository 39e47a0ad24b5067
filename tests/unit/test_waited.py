"""How much of a batch's time the database took by making transactions run again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from pipeline.store import database as module
from pipeline.store.database import Contended, Database, Transaction

THREADS = 4
PAUSE = 0.05
"""Seconds between two tries here."""


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    class Chance:
        def uniform(self, _least: float, _most: float) -> float:
            return PAUSE

    monkeypatch.setattr(module, "_CHANCE", Chance())
    made = Database(f"sqlite:///{tmp_path / 'test.db'}")
    yield made
    made.close()


def contend(database: Database, together: Barrier) -> None:
    """One transaction whose first try comes to nothing."""
    tries = 0

    def work(_tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            together.wait(10.0)
            raise Contended("a row has changed")

    database.read(work)


def test_threads_that_wait_side_by_side_lose_no_more_time_than_passes(database: Database) -> None:
    together = Barrier(THREADS)
    begun = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for one in [pool.submit(contend, database, together) for _ in range(THREADS)]:
            one.result()
    took = time.monotonic() - begun
    assert database.retries == THREADS
    assert PAUSE <= database.take_waited() <= took
    assert database.take_waited() == 0.0, "it was taken"


def test_what_one_thread_loses_is_all_of_it(database: Database) -> None:
    for _ in range(2):
        contend(database, Barrier(1))
    assert database.take_waited() >= 2 * PAUSE
