"""Who takes part in the queues' benchmark: its processes, how work is published to it, and what is left of that."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

import dramatiq
import httpx
from celery import Celery
from dramatiq.broker import Broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from redis import Redis
from rq import Queue

from pipeline.transport.port import open_transport
from schemas.messages import IdsBody, Message
from tests.benchmarks.no_op.no_op.consumer import Commit
from tests.rabbitmq import RabbitMqServer
from tests.waiting import eventually

WORK = Path(__file__).parent / "no_op"
"""Where the contestants' processes find what they run."""
IDS = 10
"""Ids that a message names, everybody's."""
_ROUND = 1_000
_DRAMATIQ: Mapping[str, Callable[..., Broker]] = {"amqp": RabbitmqBroker, "redis": RedisBroker}
_END = 20.0

Count = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to have messages processed. `left` counts what is published and not acknowledged."""

    name: str
    processes: str
    """Which processes work on messages, in words."""
    messages: int
    commands: Sequence[Sequence[str]]
    publish: Callable[[int], None]
    left: Count
    variables: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self, log: Path) -> Iterator[Sequence[Popen[bytes]]]:
        """Its processes, for as long as the block lasts; each in a group of its own, killed as a whole."""
        variables = {**os.environ, "PYTHONPATH": str(WORK), **self.variables}
        started: list[Popen[bytes]] = []
        try:
            with log.open("ab") as stream:
                started.extend(
                    Popen(command, env=variables, cwd=log.parent, stdout=stream, stderr=stream, start_new_session=True)
                    for command in self.commands
                )
            yield started
        finally:
            for process in started:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(_END)


def rq_worker(url: str, kind: str, messages: int) -> Contestant:
    """Two `rq worker` processes; `kind` is RQ's class: Worker (it forks for each job) or SimpleWorker."""
    client = Redis.from_url(url)
    queue = Queue("no-op", connection=client)

    def publish(number: int) -> None:
        for start in range(0, number, _ROUND):
            queue.enqueue_many(
                Queue.prepare_data("no_op.rq_function.pass_over", [ids], result_ttl=0)
                for ids in _ids(min(_ROUND, number - start))
            )

    def left() -> int:
        moved = client.llen(queue.intermediate_queue_key)
        return int(client.llen(queue.key)) + int(moved) + int(client.zcard("rq:wip:no-op"))

    command = [sys.executable, "-m", "rq.cli", "worker", "--url", url, "--worker-class", f"rq.worker.{kind}"]
    forks = ", each with a child per job" if kind == "Worker" else ""
    commands = [[*command, "--logging_level", "WARNING", "no-op"]] * 2
    return Contestant(f"RQ {kind}", f"2 workers{forks}", messages, commands, publish, left)


def celery(url: str, left: Count, messages: int) -> Contestant:
    """Prefork with two children, acknowledged late, results ignored."""

    def publish(number: int) -> None:
        app = Celery("no_op", broker=url)
        # A new connection each time: it does not look again whether the queue that it once declared is still there.
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for ids in _ids(number):
                app.send_task("pass_over", args=[ids], ignore_result=True, producer=producer)

    command = [sys.executable, "-m", "celery", "-A", "no_op.celery_app", "worker", "-P", "prefork", "-c", "2"]
    return Contestant(
        "Celery", "1 parent + 2 children", messages, [command], publish, left, variables={"NO_OP_BROKER": url}
    )


def dramatiq_workers(url: str, left: Count, messages: int) -> Contestant:
    """Two processes of eight threads (its default)."""

    def publish(number: int) -> None:
        broker = _DRAMATIQ[url.partition(":")[0]](url=url)
        broker.declare_queue("default")
        for ids in _ids(number):
            broker.enqueue(
                dramatiq.Message(queue_name="default", actor_name="pass_over", args=(ids,), kwargs={}, options={})
            )
        broker.close()

    command = [sys.executable, "-m", "dramatiq", "no_op.dramatiq_actors", "-p", "2", "-t", "8"]
    return Contestant(
        "Dramatiq",
        "2 workers of 8 threads (+ an idle parent)",
        messages,
        [command],
        publish,
        left,
        variables={"NO_OP_BROKER": url},
    )


def penstock(url: str, database_url: str, body: type[IdsBody], left: Count, messages: int) -> Contestant:
    """One `penstock consume` with one worker in its pool."""
    transport = open_transport(url, "bench")

    def publish(number: int) -> None:
        for start in range(0, number, _ROUND):
            transport.publish(no_ops(body, min(_ROUND, number - start)))

    return Contestant(
        name="Penstock, a commit per batch" if body is Commit else "Penstock",
        processes="1 consumer + 1 pool worker",
        messages=messages,
        commands=[[sys.executable, "-m", "pipeline.cli", "consume", body.queue]],
        publish=publish,
        left=left,
        variables={"PENSTOCK_BROKER_URL": url, "PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_LOG_LEVEL": "warning"},
    )


def no_ops(body: type[IdsBody], number: int) -> list[Message]:
    """So many messages about ten ids each."""
    now = datetime.now(UTC)
    return [Message.about(body.model_validate({"job_ids": ids}), now=now) for ids in _ids(number)]


def left_by_celery(url: str) -> Count:
    """On a Redis: its list, and the hash of what is not acknowledged."""
    client = Redis.from_url(url)
    return lambda: int(client.llen("celery")) + int(client.hlen("unacked"))


def left_by_dramatiq(url: str) -> Count:
    """On a Redis: the hash that holds its messages until they are acknowledged."""
    client = Redis.from_url(url)
    return lambda: int(client.hlen("dramatiq:default.msgs"))


def left_by_penstock(url: str, queue: str) -> Count:
    """On a Redis: the queue, and the lists of what consumers hold."""
    transport = open_transport(url, "bench-count")

    def left() -> int:
        depth = transport.depth([queue])[queue]
        return (depth.ready or 0) + (depth.in_flight or 0)

    return left


def left_on_rabbitmq(server: RabbitMqServer, queue: str) -> Count:
    """Ready and unacknowledged, by the management API, whose numbers are up to a second old."""
    client = httpx.Client(base_url=f"{server.management_url}/api/queues/%2F/")

    def known() -> tuple[int] | None:
        answer = client.get(queue, params={"columns": "messages"})
        # A queue of which nothing is known now answers with an empty list: that is not the same as none left.
        return (int(answer.json()["messages"]),) if answer.is_success and answer.json() else None

    def left() -> int:
        found = eventually(known)
        assert found is not None
        return found[0]

    return left


def _ids(number: int) -> Iterator[list[int]]:
    return (list(range(1_000_000 + IDS * n, 1_000_000 + IDS * (n + 1))) for n in range(number))
