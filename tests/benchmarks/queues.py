"""Our consumer's runtime beside RQ, Celery and Dramatiq: the same work, none, on the same broker and machine.

All messages are published beforehand. The clock runs from the moment when a tenth of them is processed until none
is left, acknowledged and all, so that nobody's start counts. Contestants take turns; a figure is the median.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from pipeline.store import schema
from pipeline.store.database import Database
from tests.benchmarks import contestants
from tests.benchmarks.contestants import Contestant
from tests.benchmarks.figures import Figure
from tests.benchmarks.no_op.no_op.consumer import BATCH, Commit, NoOp, batches
from tests.servers import MariaDbServer, running_mariadb, running_redis
from tests.waiting import eventually

ROUNDS = 3
WARM = 0.1
"""Share of the messages that are processed before the clock runs."""
LONGEST = 120.0
"""Seconds that a contestant may take over its messages."""

OVER_SIMPLE_WORKER = 50
OVER_BETTER_PEER = 5


def measure() -> list[Figure]:
    """Redis, then RabbitMQ; the rows and then the ratios."""
    with running_mariadb() as mariadb, tempfile.TemporaryDirectory() as folder:
        database_url = _prepared(mariadb)
        return [
            *_on_redis(Path(folder), database_url),
        ]


def _prepared(server: MariaDbServer) -> str:
    """A database with the schema and the table of the committing consumer."""
    url = server.new_database()
    database = Database(url)
    schema.upgrade(database)
    batches.metadata.create_all(database.engine)
    database.close()
    return url


def _on_redis(folder: Path, database_url: str) -> list[Figure]:
    with running_redis() as server:
        url = server.url
        rates = _rates(
            [
                contestants.rq_worker(url, "Worker", 300),
                contestants.rq_worker(url, "SimpleWorker", 3_000),
                contestants.celery(url, contestants.celery_left(url), 6_000),
                contestants.dramatiq_workers(url, contestants.dramatiq_left(url), 6_000),
                contestants.penstock(url, database_url, NoOp, 100_000),
                contestants.penstock(url, database_url, Commit, 100_000),
            ],
            folder,
            server.flush,
        )
    return _figures("Redis", rates)


Rates = dict[str, list[float]]


def _rates(contestants: Sequence[Contestant], folder: Path, clear: Callable[[], None]) -> Rates:
    """Messages/s of each contestant in each round."""
    rates: Rates = {f"{each.name}: {each.processes}": [] for each in contestants}
    for _ in range(ROUNDS):
        for each in contestants:
            clear()
            rates[f"{each.name}: {each.processes}"].append(_rate(each, folder))
            print(each.name, rates[f"{each.name}: {each.processes}"][-1], flush=True)
    return rates


def _rate(contestant: Contestant, folder: Path) -> float:
    """Messages/s from the first tenth to the last acknowledgement."""
    contestant.publish(contestant.messages)
    log = folder / "contestant.log"
    with contestant.running(log):
        try:
            first, left = _moment(contestant, contestant.messages * (1 - WARM))
            last, none = _moment(contestant, 0)
        except AssertionError as error:
            raise AssertionError(f"{contestant.name}: {error}\n{log.read_text()[-4000:]}") from error
    return (left - none) / (last - first)


def _moment(contestant: Contestant, most: float) -> tuple[float, int]:
    """When at most so many are left, and how many are."""

    def reached() -> tuple[float, int] | None:
        left = contestant.left()
        return (time.perf_counter(), left) if left <= most else None

    return eventually(reached, within=LONGEST, every=0.02)


def _figures(broker: str, rates: Rates) -> list[Figure]:
    return [Figure(f"no-op on {broker}", name, median(values), "messages/s") for name, values in rates.items()]
