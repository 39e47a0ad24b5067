"""Our consumer's runtime beside RQ, Celery and Dramatiq: the same work, none, on the same broker and machine.

All messages are published beforehand. The clock runs from the moment when a tenth of them is processed until none
is left, acknowledged and all, so that nobody's start counts. Contestants take turns; a figure is the median.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from subprocess import Popen

from pipeline.store import migration
from pipeline.store.database import Database
from tests.benchmarks import transports
from tests.benchmarks.contestants import (
    Contestant,
    celery,
    dramatiq_workers,
    left_by_celery,
    left_by_dramatiq,
    left_by_penstock,
    left_on_rabbitmq,
    penstock,
    rq_worker,
)
from tests.benchmarks.figures import Figure
from tests.benchmarks.no_op.no_op.consumer import Commit, NoOp, batches
from tests.rabbitmq import RabbitMqServer, running_rabbitmq
from tests.servers import MariaDbServer, RedisServer, running_mariadb, running_redis
from tests.waiting import eventually

ROUNDS = 3
WARM = 0.1
"""Share of the messages that are processed before the clock runs."""
LONGEST = 120.0
"""Seconds that a contestant may take over its messages."""

OVER_SIMPLE_WORKER = 50
OVER_BETTER_PEER = 5
"""How many times as fast as RQ's SimpleWorker, and as the better of Celery and Dramatiq, is expected of ours."""

Rates = dict[str, list[float]]


def measure() -> list[Figure]:
    """The runtimes on Redis and on RabbitMQ, and the transports on every broker."""
    with running_mariadb() as mariadb, tempfile.TemporaryDirectory() as name:
        folder, database_url = Path(name), _prepared(mariadb)
        with running_redis() as redis:
            figures = [*_on_redis(redis, database_url, folder), *transports.on_redis(redis)]
        with running_rabbitmq() as rabbitmq:
            figures += [*_on_rabbitmq(rabbitmq, database_url, folder), *transports.on_rabbitmq(rabbitmq)]
    return figures + transports.on_activemq()


def _prepared(server: MariaDbServer) -> str:
    """A database with the schema and the table of the committing consumer."""
    url = server.new_database()
    database = Database(url)
    migration.upgrade(database)
    batches.metadata.create_all(database.engine)
    database.close()
    return url


def _on_redis(server: RedisServer, database_url: str, folder: Path) -> list[Figure]:
    url = server.url
    taking_part = [
        rq_worker(url, "Worker", 300),
        rq_worker(url, "SimpleWorker", 3_000),
        celery(url, left_by_celery(url), 5_000),
        dramatiq_workers(url, left_by_dramatiq(url), 10_000),
        penstock(url, database_url, NoOp, left_by_penstock(url, NoOp.queue), 100_000),
        penstock(url, database_url, Commit, left_by_penstock(url, Commit.queue), 100_000),
    ]
    rates = _rates(taking_part, folder, server.flush)
    return [
        *_table("Redis", taking_part, rates),
        *_ratios("Redis", rates, ["RQ SimpleWorker"], OVER_SIMPLE_WORKER),
        *_ratios("Redis", rates, ["Celery", "Dramatiq"], OVER_BETTER_PEER),
    ]


def _on_rabbitmq(server: RabbitMqServer, database_url: str, folder: Path) -> list[Figure]:
    url = server.amqp_url
    taking_part = [
        celery(url, left_on_rabbitmq(server, "celery"), 7_500),
        dramatiq_workers(url, left_on_rabbitmq(server, "default"), 20_000),
        penstock(url, database_url, NoOp, left_on_rabbitmq(server, NoOp.queue), 100_000),
        penstock(url, database_url, Commit, left_on_rabbitmq(server, Commit.queue), 100_000),
    ]
    rates = _rates(taking_part, folder, server.delete_queues)
    return [
        *_table("RabbitMQ", taking_part, rates),
        *_ratios("RabbitMQ", rates, ["Celery", "Dramatiq"], OVER_BETTER_PEER),
    ]


def _rates(taking_part: Sequence[Contestant], folder: Path, clear: Callable[[], None]) -> Rates:
    """Messages/s of each contestant in each round."""
    rates: Rates = {each.name: [] for each in taking_part}
    for number in range(1, ROUNDS + 1):
        for each in taking_part:
            clear()
            rates[each.name].append(_rate(each, folder))
            print(f"round {number}: {each.name}: {rates[each.name][-1]:,.0f} messages/s", flush=True)
    clear()
    return rates


def _rate(contestant: Contestant, folder: Path) -> float:
    """Messages/s from the first tenth to the last acknowledgement."""
    contestant.publish(contestant.messages)
    eventually(lambda: contestant.left() == contestant.messages, within=LONGEST)
    log = folder / "contestant.log"
    log.unlink(missing_ok=True)
    with contestant.running(log) as processes:
        try:
            first, left = _moment(contestant, processes, contestant.messages * (1 - WARM))
            last, none = _moment(contestant, processes, 0)
        except AssertionError as error:
            raise AssertionError(f"{contestant.name}: {error}\n{log.read_text()[-4000:]}") from error
    return (left - none) / (last - first)


def _moment(contestant: Contestant, processes: Sequence[Popen[bytes]], most: float) -> tuple[float, int]:
    """When at most so many are left, and how many are."""

    def reached() -> tuple[float, int] | None:
        assert all(process.poll() is None for process in processes), "it ended"
        left = contestant.left()
        return (time.perf_counter(), left) if left <= most else None

    moment = eventually(reached, within=LONGEST, every=0.02)
    assert moment is not None
    return moment


def _table(broker: str, taking_part: Sequence[Contestant], rates: Rates) -> list[Figure]:
    return [
        Figure(f"no-op, {broker}", f"{each.name}: {each.processes}", median(rates[each.name]), "messages/s")
        for each in taking_part
    ]


def _ratios(broker: str, rates: Rates, peers: Sequence[str], expected: float) -> list[Figure]:
    """Ours over the best of the peers': by the medians, and by the best rounds, which other load disturbs less."""
    figures = []
    for of_rounds, words, least in ((median, "medians", expected), (max, "best rounds", None)):
        speeds = {name: of_rounds(values) for name, values in rates.items()}
        best = max(peers, key=speeds.__getitem__)
        figures.append(
            Figure(f"no-op, {broker}", f"Penstock / {best}, {words}", speeds["Penstock"] / speeds[best], "x", least)
        )
    return figures
