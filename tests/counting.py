"""Counting events as ticks do, at once or while others write them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline.store import event_counts, marks
from pipeline.store.database import Database, Transaction

TRANSACTIONS = 240
_WRITERS, _COUNTERS = 6, 2


def count(database: Database, *, most: int = event_counts.MOST) -> None:
    """As many ticks as it takes when nothing else goes on; what was given out counts as settled at once."""
    for _ in range(2):
        while database.transact(partial(event_counts.count, settled=0.0, most=most)):
            pass


def come_and_go(
    mariadb: Database,
    seed: int,
    write: Callable[[Transaction, random.Random], None],
    also: Callable[[], object] = lambda: None,
) -> None:
    """So many transactions of every length, some of them taken back, each of which writes events with `write`, once or
    several times; the first ones stay open until a tick has met them, but for one writer's, which tell the ticks that
    there is something to count. Meanwhile two count, as overlapping ticks do, and do what is `also` to be done."""
    dice, met, over, pause = random.Random(seed), threading.Event(), threading.Event(), threading.Event()

    def write_many(chance: random.Random, *, waits: bool) -> None:
        def work(tx: Transaction) -> None:
            for _ in range(chance.randint(1, 3)):
                write(tx, chance)
                pause.wait(chance.random() * 0.05)
            if waits:
                met.wait(60.0)
            if chance.random() < 0.3:
                raise InterruptedError

        for _ in range(TRANSACTIONS // _WRITERS):
            try:
                mariadb.transact(work)
            except InterruptedError:
                continue

    def tick() -> None:
        while not over.is_set():
            try:
                mariadb.transact(partial(event_counts.count, settled=0.05, most=25))
            except marks.Held:
                met.set()
            also()

    with ThreadPoolExecutor(_WRITERS + _COUNTERS) as pool:
        ticks = [pool.submit(tick) for _ in range(_COUNTERS)]
        writers = [
            pool.submit(write_many, random.Random(dice.random()), waits=number > 0) for number in range(_WRITERS)
        ]
        for done in writers:
            done.result()
        over.set()
        for tick_done in ticks:
            tick_done.result()
    assert met.is_set(), "no tick met an open transaction: this shows nothing"
