"""Measuring the queues: any number of API processes make one series, and a restart loses nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import update

from pipeline.api.publisher import Publisher
from pipeline.api.queue_meter import INTERVAL, QueueMeter, measuring
from pipeline.api.services import Services
from pipeline.errors import BrokerUnavailable
from pipeline.sandboxes import Sandboxes
from pipeline.scaling import Size
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.instances import Identity, Load, Pulse, beat
from pipeline.store.messages import Deferral, defer
from pipeline.store.queue_sizes import Work, add_work, sizes
from pipeline.store.tables import queue_sizes
from pipeline.transport.memory import memory_broker
from pipeline.transport.port import Depth, open_transport
from schemas.messages import FilesDue, Message
from schemas.outcomes import Backoff
from tests.waiting import eventually


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Iterator[Services]:
    """What an API process on each kind of database works with."""
    settings = Settings(data_dir=tmp_path, broker_url=f"memory://{uuid4().hex}", most_workers={"data": 8})
    publisher = Publisher(settings.broker_url, "meter", Backoff(base=1e-6, cap=1e-6))
    yield Services(settings, database, publisher, Sandboxes(settings.resolved_sandbox_url()), "meter")
    publisher.close()


def about(*file_ids: int) -> Message:
    return Message.about(FilesDue(file_ids=file_ids), now=datetime.now(UTC))


def data(database: Database) -> Size:
    return database.read(sizes)["data"]


def let_pass(database: Database, seconds: float) -> None:
    """All measurements become so much older."""
    for queue, size in database.read(sizes).items():
        moment = datetime.fromtimestamp(size.measured_at.timestamp() - seconds, UTC)
        older = update(queue_sizes).where(queue_sizes.c.queue == queue).values(measured_at=moment)
        database.transact(lambda tx, change=older: tx.run(change))  # type: ignore[misc]


def gauge(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"queue": "data"})


def test_a_backlog_is_what_waits_is_in_flight_and_is_due(services: Services) -> None:
    database = services.database
    services.publisher.publish([about(1), about(2), about(3)])
    taken = open_transport(services.settings.broker_url, "another")
    assert len(taken.receive("data", 1, 0.0)) == 1
    database.transact(
        lambda tx: defer(tx, [Deferral(about(4), "early", -1.0), Deferral(about(5), "late", 60.0)], wake_after=30.0)
    )
    QueueMeter(services).turn()
    found = data(database)
    assert (found.backlog, found.deferred, found.wanted, found.workers) == (4, 1, 1, 0)
    assert found.oldest_age is not None
    taken.close()


def test_what_is_wanted_follows_what_is_done_and_what_waits(services: Services) -> None:
    database, meter = services.database, QueueMeter(services)
    identity = Identity("one", "consumer", ("data",), "1", "host", 1, None)
    database.transact(lambda tx: beat(tx, identity, Pulse(loads=(Load("data", 0, None, slots=2),))))
    meter.turn()
    services.publisher.publish([about(number) for number in range(1, 201)])
    wanted = []
    for _ in range(6):
        let_pass(database, INTERVAL)
        database.transact(lambda tx: add_work(tx, [Work("data", 5, 20.0)]))
        meter.turn()
        wanted.append(data(database).wanted)
    assert wanted == [2, 4, 8, 8, 8, 8], "200 messages of 4 s, two slots a process, and no more than the most"
    assert data(database).seconds == pytest.approx(4.0)
    assert gauge("penstock_queue_workers_wanted") == 8
    assert gauge("penstock_queue_seconds_per_message") == pytest.approx(4.0)
    assert (gauge("penstock_queue_arrivals_per_second") or 0) > 0


def test_two_apis_make_one_series_and_a_third_goes_on_from_it(services: Services) -> None:
    database, both = services.database, Barrier(2)

    def turn(_number: int) -> float:
        meter = QueueMeter(services)
        both.wait()
        return meter.turn()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(turn, range(2)))
        for done in range(1, 6):
            services.publisher.publish([about(done)])
            database.transact(lambda tx: add_work(tx, [Work("data", 10, 1.0)]))
            let_pass(database, INTERVAL)
            before = data(database)
            assert all(rest > 1 for rest in threads.map(turn, range(2)))
            now = data(database)
            assert now.settled == done * 10
            elapsed = (now.measured_at - before.measured_at).total_seconds()
            assert elapsed == pytest.approx(INTERVAL, abs=5)
            assert before.arrivals < now.arrivals < 11 / elapsed, "each interval counts once"
    known = data(database)
    assert QueueMeter(services).turn() < INTERVAL
    assert data(database) == known, "it is not due yet"


def test_a_measurement_that_was_under_way_does_not_follow_at_once(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that answers slowly lets another API's whole turn pass: the interval is measured once."""
    database, meter = services.database, QueueMeter(services)
    services.publisher.publish([about(number) for number in range(1, 201)])
    meter.turn()
    let_pass(database, INTERVAL)
    database.transact(lambda tx: add_work(tx, [Work("data", 5, 20.0)]))
    ask = services.publisher.depth
    others: list[Size] = []

    def slowly(queues: Sequence[str]) -> Mapping[str, Depth]:
        told = ask(queues)
        if not others:
            others.append(data(database))
            QueueMeter(services).turn()
            others.append(data(database))
            database.transact(lambda tx: add_work(tx, [Work("data", 5, 20.0)]))
        return told

    monkeypatch.setattr(services.publisher, "depth", slowly)
    meter.turn()
    assert data(database) == others[1]
    assert gauge("penstock_queue_workers_wanted") == others[1].wanted


def test_none_are_wanted_only_where_the_broker_tells_what_waits(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = services.settings.model_copy(update={"least_workers": {"data": 0}})
    meter = QueueMeter(Services(asleep, services.database, services.publisher, services.sandboxes, "meter"))
    for _ in range(60):
        meter.turn()
        let_pass(services.database, INTERVAL)
    assert data(services.database).wanted == 0
    unknown = Depth(ready=None, in_flight=None, oldest_age=None)
    monkeypatch.setattr(services.publisher, "depth", lambda queues: dict.fromkeys(queues, unknown))
    meter.turn()
    assert data(services.database).wanted == 1, "else nobody would see that it is not empty"


def test_without_the_broker_what_was_wanted_stays_wanted(services: Services) -> None:
    meter = QueueMeter(services)
    meter.turn()
    let_pass(services.database, INTERVAL)
    before = data(services.database)
    broker = memory_broker(services.settings.broker_url.removeprefix("memory://"))
    broker.stop()
    with pytest.raises(BrokerUnavailable):
        meter.turn()
    assert data(services.database) == before
    assert gauge("penstock_queue_workers_wanted") == before.wanted
    broker.start()
    eventually(lambda: not services.publisher.away)
    meter.turn()
    assert data(services.database).measured_at > before.measured_at


def test_a_process_measures_until_it_stops(services: Services) -> None:
    with measuring(services):
        eventually(lambda: "data" in services.database.read(sizes))
    assert services.stopping.is_set()


def test_bounds_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_MOST_WORKERS", json.dumps({"data": 3}))
    assert Settings().most_workers == {"data": 3}
