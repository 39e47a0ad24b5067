"""Jobs that come back behind what was taken last are not lost to the transaction that meets them."""

from __future__ import annotations

from executors.matching.memory import Memory
from executors.matching.stock import CREDULOUS, Stock
from pipeline.store.database import Database, Transaction
from tests.backlog import person, waiting


def test_all_jobs_behind_a_hint_are_had_once_in_as_many_steps_as_it_takes(database: Database) -> None:
    ids = waiting(database, person(database, "default"), 60)

    def work(tx: Transaction) -> list[int]:
        memory = Memory()
        memory.read_all(tx)
        (level,) = memory.board.levels()
        memory.hints[level.autocluster_id, level.priority] = ids[49]
        stock = Stock(tx, memory)
        for _ in range(CREDULOUS + 1):
            stock.begin()
        return [job.id for _ in range(12) for job in stock.take(level, 5)]

    assert sorted(database.transact(work)) == ids
