"""The short form of `make chaos`: nothing confirmed is lost on any broker, no job on one that forgets everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.activemq import ActiveMqServer
from tests.chaos import brokers, flushed_jobs, total_queue
from tests.chaos.brokers import SHORT, SHORT_WITH_RESTARTS, Target
from tests.chaos.nemesis import draw
from tests.chaos.report import show
from tests.rabbitmq import RabbitMqServer
from tests.servers import MariaDbServer, running_redis

MESSAGES = 2_000


@pytest.fixture
def redis() -> Iterator[Target]:
    with brokers.running_durable_redis() as server:
        yield brokers.redis_target(server, takeover=2.0)


@pytest.fixture
def rabbitmq_amqp(rabbitmq_server: RabbitMqServer) -> Target:
    return brokers.rabbitmq_amqp_target(rabbitmq_server)


@pytest.fixture
def rabbitmq_stomp(rabbitmq_server: RabbitMqServer) -> Target:
    return brokers.rabbitmq_stomp_target(rabbitmq_server)


@pytest.fixture
def activemq(activemq_server: ActiveMqServer) -> Target:
    return brokers.activemq_target(activemq_server)


@pytest.mark.parametrize("name", ["redis", "rabbitmq_amqp", "rabbitmq_stomp", "activemq"])
def test_nothing_confirmed_is_lost_and_nothing_is_invented_on(
    name: str, seed: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    target: Target = request.getfixturevalue(name)
    kinds = SHORT_WITH_RESTARTS if name == "redis" else SHORT
    faults = draw(seed, kinds, len(kinds))
    outcome = total_queue.run(target, tmp_path / "run", messages=MESSAGES, faults=faults)
    show(seed, [outcome])
    assert outcome.verdict.confirmed == MESSAGES
    assert outcome.verdict.lost == outcome.verdict.unexpected == ()


def test_no_job_is_lost_on_a_redis_that_forgets_everything(
    seed: int, mariadb_server: MariaDbServer, tmp_path: Path
) -> None:
    url = mariadb_server.new_database()
    faults = draw(seed, flushed_jobs.SHORT, 2)
    with running_redis() as server:
        outcome = flushed_jobs.run(server, url, tmp_path / "run", size=MESSAGES, faults=faults)
    mariadb_server.drop_database(url)
    show(seed, [outcome])
    assert outcome.verdict.recovered > 0, "the flush took nothing: this run proves nothing"
    assert outcome.verdict.lost == outcome.verdict.unexpected == ()
    assert outcome.verdict.duplicated == 0
