"""Reconcile on brokers that do not tell how old their messages are, or not even how many there are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from executors.upkeep import reconcile
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import instances
from pipeline.store.database import Database
from pipeline.store.instances import Identity, Load, Pulse
from pipeline.store.tables import jobs as jobs_table
from pipeline.transport.port import Transport, open_transport
from schemas.messages import JobsReceived, Message
from tests.activemq import ActiveMqServer
from tests.rabbitmq import RabbitMqServer
from tests.submitting import array, submit

QUEUES = ("optimisation", "matching", "data")
CONSUMER = Identity("c", "consumer", QUEUES, "1", "host", 1, None)


@pytest.fixture(params=["RabbitMQ by AMQP", "RabbitMQ by STOMP", "ActiveMQ by STOMP"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "ActiveMQ by STOMP":
        activemq: ActiveMqServer = request.getfixturevalue("activemq_server")
        yield activemq.url
        return
    rabbitmq: RabbitMqServer = request.getfixturevalue("rabbitmq_server")
    vhost = rabbitmq.new_vhost()
    yield rabbitmq.amqp_url_of(vhost) if request.param == "RabbitMQ by AMQP" else rabbitmq.stomp_url_of(vhost)
    rabbitmq.drop_vhost(vhost)


@pytest.fixture
def context(url: str, sqlite_file: Path, tmp_path: Path) -> Iterator[Context]:
    shutil.copyfile(sqlite_file, tmp_path / "test.db")
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    yield Context(Settings(broker_url=url, wake_after=30.0), database, "upkeep")
    database.close()


@pytest.fixture
def transport(url: str) -> Iterator[Transport]:
    opened = open_transport(url, "test")
    for queue in QUEUES:
        opened.purge(queue)
    yield opened
    opened.purge("optimisation")
    opened.close()


def _overdue(context: Context) -> list[Message]:
    """What reconcile publishes when every row is overdue."""
    past = update(jobs_table).values(wake_at=jobs_table.c.created_at)
    context.database.transact(lambda tx: tx.run(past))
    return [message for message in reconcile.run(context) if isinstance(message.body, JobsReceived)]


def _say(context: Context, in_flight: int, oldest_age: float | None) -> None:
    loads = tuple(Load(queue, in_flight, oldest_age) for queue in QUEUES)
    context.database.transact(partial(instances.beat, identity=CONSUMER, pulse=Pulse(in_flight, loads=loads)))


def test_a_queue_grows_only_when_its_messages_are_known_to_be_gone(context: Context, transport: Transport) -> None:
    transport.publish(submit(context.database, {"name": "a", **array(1_500)}).messages)
    assert _overdue(context) == [], "its consumer is stopped"
    _say(context, 0, None)
    assert _overdue(context) == [], "its consumer has just begun"
    _say(context, 0, 300.0)
    assert _overdue(context) == [], "its consumer is behind by five minutes"
    _say(context, 0, 1.0)
    assert _overdue(context), "its consumer has seen to everything older than a second"
