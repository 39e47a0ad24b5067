"""Consumers while the broker or the database is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.activemq import ActiveMqServer
from tests.outside.stage import Stage, StageMaker, rehearsal, stages
from tests.proxy import Proxy
from tests.servers import MariaDbServer, RedisServer, running_mariadb, running_redis
from tests.waiting import eventually


@pytest.fixture
def broker() -> Iterator[RedisServer]:
    with running_redis(durable=True) as server:
        yield server


@pytest.fixture
def database() -> Iterator[MariaDbServer]:
    with running_mariadb() as server:
        yield server


@pytest.fixture
def make_stage(tmp_path: Path, broker: RedisServer) -> Iterator[StageMaker]:
    with stages(tmp_path, broker.url + "?takeover=2") as make:
        yield make


def test_follow_ups_and_acknowledgements_wait_for_the_broker(make_stage: StageMaker, broker: RedisServer) -> None:
    stage = make_stage()
    stage.start()
    (row,) = stage.instances()
    stage.publish(rehearsal(1, 2, faults={1: "wait", 2: "follow"}))
    eventually(stage.gate_reached)
    broker.stop()
    stage.open_gate()
    stage.wait_for([1, 2])
    eventually(lambda: _status(f"{row.health_url}/readyz") == 503)
    assert _status(f"{row.health_url}/livez") == 200
    eventually(lambda: _seen(stage) is None)  # it does not look, so what it saw keeps no other one's word from counting
    broker.start()
    stage.wait_for([1_000_002])
    eventually(stage.empty)
    eventually(lambda: _status(f"{row.health_url}/readyz") == 200)
    said = stage.log.read_text()
    assert (said.count('"broker_lost"'), said.count('"broker_back"')) == (2, 2), "as message and as event.action"
    assert stage.executed()[1_000_002] == 1
    eventually(lambda: (_seen(stage) or 99.0) < 5)  # it is idle, and looks again


def test_a_batch_that_publishes_nothing_is_no_sign_that_the_broker_is_back(
    tmp_path: Path, activemq_server: ActiveMqServer
) -> None:
    with Proxy(activemq_server.port) as proxy, stages(tmp_path, f"stomp://guest:guest@127.0.0.1:{proxy.port}") as make:
        stage = make()
        stage.start()
        (row,) = stage.instances()
        stage.publish(rehearsal(1, faults={1: "wait"}))
        eventually(stage.gate_reached)
        proxy.refuse()
        eventually(lambda: _status(f"{row.health_url}/readyz") == 503)
        stage.open_gate()
        stage.wait_for([1])
        # Its acknowledgement is dropped in silence, soon after it is through.
        eventually(lambda: stage.instances()[0].in_flight == 0)
        assert "broker_back" not in stage.log.read_text()
        proxy.accept()
        eventually(lambda: _status(f"{row.health_url}/readyz") == 200)
        assert stage.log.read_text().count('"broker_lost"') == 2, "as message and as event.action"


def test_dead_letters_and_heartbeats_wait_for_the_database(make_stage: StageMaker, database: MariaDbServer) -> None:
    stage = make_stage(database_url=database.new_database())
    process = stage.start()
    (row,) = stage.instances()
    stage.publish(rehearsal(1, faults={1: "wait"}), rehearsal(2, faults={2: "dead"}))
    eventually(stage.gate_reached)
    database.stop()
    stage.open_gate()
    eventually(lambda: '"database_lost"' in stage.log.read_text())
    assert _status(f"{row.health_url}/livez") == 200
    assert process.poll() is None
    database.start()
    (letter,) = eventually(stage.dead)
    assert letter.reason == "said to be hopeless"
    eventually(stage.empty)
    eventually(lambda: stage.instances()[0].silence < 3)


def _seen(stage: Stage) -> float | None:
    """No message that waits is older, says the consumer."""
    ((load,),) = (row.loads for row in stage.instances())
    return load.oldest_age


def _status(url: str) -> int:
    return httpx.get(url, timeout=5).status_code
