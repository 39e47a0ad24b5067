"""One run of matching: two consumers, offers until enough jobs are matched, then a look whether all is right."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.store.database import Database
from pipeline.transport.port import open_transport
from tests.benchmarks.matching_checking import before, check
from tests.benchmarks.matching_company import Chunk, Company, Wish, company
from tests.benchmarks.matching_driving import Driver
from tests.benchmarks.matching_loading import Loaded
from tests.benchmarks.matching_measuring import WARM, Reading, Record, cores_used, read_processors
from tests.benchmarks.matching_pilots import add_pilots, end_pilots
from tests.benchmarks.matching_server import MatchingServer, logs, running_consumers
from tests.servers import running_redis

_PER_PILOT = 3
"""Jobs that a pilot gets on average, at the least; pilots that are not needed do no harm."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is measured. `feed` are jobs that begin to wait as others are matched, to keep a short backlog up."""

    name: str
    loaded: Loaded
    pops: int
    feed: tuple[Chunk, ...] = ()
    is_churning: bool = False
    has_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a run showed."""

    name: str
    record: Record
    matched: int
    cores: Mapping[str, float]
    """Cores that each party kept busy."""
    history: int
    """InnoDB's history list at the end."""
    fed: int
    submitted: int
    killed: int

    def words(self) -> str:
        """The main figures, in one line."""
        record, cores = self.record, self.cores
        return (
            f"{self.name}: {record.rate():,.0f} matches/s, slowest 10 s {record.slowest():,.0f}/s; "
            f"offers p50 {1_000 * record.per_offer(0.5):.0f} ms, p99 {1_000 * record.per_offer(0.99):.0f} ms; "
            + ", ".join(f"{party} {100 * busy:.0f} %" for party, busy in cores.items())
            + f" of a core; history list {self.history:,}"
        )


@dataclass(slots=True)
class _Watch:
    """Reads the processors once the warm-up is over, and passes the matches on."""

    parties: Mapping[str, Sequence[int]]
    beside: Company
    warm: float
    readings: list[Reading] = field(default_factory=list)

    def tell(self, matched: int) -> None:
        """So many jobs are matched."""
        self.beside.tell(matched)
        if not self.readings and matched >= self.warm:
            self.read()

    def read(self) -> None:
        """Where everybody's processor time stands."""
        self.readings.append(read_processors(self.parties))


def perform(server: MatchingServer, run: Run) -> Result:
    """Do it. Raises AssertionError when it goes wrong, or when what it left in the database is wrong."""
    begun = time.perf_counter()
    with ExitStack() as stack:
        database = Database(run.loaded.database_url)
        stack.callback(database.close)
        pilot_ids = add_pilots(database, run.loaded, run.pops // _PER_PILOT)
        since = before(database)
        if run.has_snapshot:
            stack.enter_context(_held_snapshot(database))
        result = _drive(server, database, run, pilot_ids)
    database = Database(run.loaded.database_url)
    matched = check(database, pilot_ids, since, sum(chunk.jobs for chunk in run.feed) - result.fed)
    end_pilots(database, pilot_ids)
    database.close()
    assert matched >= result.matched, f"{result.matched:,} jobs were seen matched, {matched:,} are"
    print(f"{result.words()}; {matched:,} jobs checked, {time.perf_counter() - begun:.0f} s in all", flush=True)
    return result


@contextmanager
def _held_snapshot(database: Database) -> Iterator[None]:
    """As `mysqldump --single-transaction` holds it."""
    with database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        connection.exec_driver_sql("SELECT MIN(id) FROM jobs").all()
        yield
        connection.rollback()


def _drive(server: MatchingServer, database: Database, run: Run, pilot_ids: range) -> Result:
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-consumers-")))
        consumers = stack.enter_context(running_consumers(run.loaded.database_url, redis.url, folder))
        beside = stack.enter_context(company(Wish(run.loaded, redis.url, run.feed, run.is_churning)))
        transport = open_transport(redis.url, "bench")
        stack.callback(transport.close)
        parties = {
            "MariaDB": [server.pid],
            "2 consumers with their workers": [consumer.pid for consumer in consumers],
            "Redis": [redis.pid],
            "driver": [os.getpid()],
            "submission, kills, backlog": [beside.process.pid or 0],
        }
        watch = _Watch(parties, beside, WARM * run.pops)

        def alive() -> None:
            assert all(consumer.poll() is None for consumer in consumers), f"a consumer ended:\n{logs(folder)}"
            beside.check()

        driver = Driver(database, transport, pilot_ids, run.pops, on_matches=watch.tell, check=alive)
        try:
            record = driver.run()
            watch.read()
            history = server.status("Innodb_history_list_length")
            driver.settle()
        except AssertionError as error:
            raise AssertionError(f"{run.name}: {error}\n{logs(folder)}") from error
    cores = cores_used(watch.readings)
    return Result(
        run.name,
        record,
        driver.matched,
        cores,
        history,
        *(count.value for count in (beside.counts.fed, beside.counts.submitted, beside.counts.killed)),
    )
