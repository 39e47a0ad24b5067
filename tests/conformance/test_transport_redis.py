"""What the Redis transport promises beyond the port: RQ's tools see our queues, and faults of Redis's own kind pass."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer, PickleSerializer

from pipeline.errors import BadSettings, BrokerUnavailable
from pipeline.transport.port import Depth, Transport, open_transport
from pipeline.transport.rq_scripts import inflight_key, queue_key
from schemas.messages import Body, Message
from tests.conformance.transport_brokers import ROOT
from tests.servers import RedisServer
from tests.waiting import eventually

QUEUE = "optimisation"
SOON = 0.05


class Note(Body):
    """A body of the tests' own."""

    queue: ClassVar[str] = QUEUE
    number: int


@pytest.fixture(autouse=True)
def _empty(redis_server: RedisServer) -> None:
    redis_server.flush()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def transport(redis_server: RedisServer) -> Iterator[Transport]:
    opened = open_transport(redis_server.url, "consumer")
    yield opened
    opened.close()


def notes(count: int) -> list[Message]:
    return [Message.about(Note(number=number), now=datetime.now(UTC)) for number in range(count)]


def rq(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("rq")), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout


def test_rq_reads_a_message_as_a_job_of_its_own(transport: Transport, redis: Redis) -> None:
    (message,) = notes(1)
    transport.publish([message])
    (job,) = Queue(QUEUE, connection=redis, serializer=JSONSerializer).jobs
    assert job.id == f"{message.id}-1"
    assert (job.func_name, job.instance) == ("pipeline.rq_round.execute_message", None)
    assert job.args == [message.encode().decode()]
    assert job.kwargs == {}
    assert (job.timeout, job.result_ttl, job.failure_ttl, job.ttl) == (180, 0, 86_400, None)
    assert (job.origin, job.get_status(), job.description) == (QUEUE, JobStatus.QUEUED, "Note attempt 1")
    assert job.enqueued_at is not None
    assert abs((datetime.now(UTC) - job.enqueued_at).total_seconds()) < 60


def test_rq_writes_the_same_fields_for_the_same_call(transport: Transport, redis: Redis) -> None:
    (message,) = notes(1)
    transport.publish([message])
    ours = Job.fetch(f"{message.id}-1", connection=redis, serializer=JSONSerializer)
    Queue(QUEUE, connection=redis, serializer=JSONSerializer).enqueue(
        "pipeline.rq_round.execute_message", message.encode().decode(),
        job_timeout=180, result_ttl=0, failure_ttl=86_400, description="Note attempt 1", job_id="theirs",
    )  # fmt: skip
    theirs = Job.fetch("theirs", connection=redis, serializer=JSONSerializer)
    differing = {"created_at", "enqueued_at", "data"}
    assert ours.data == theirs.data
    assert _without(ours.to_dict(), differing) == _without(theirs.to_dict(), differing)


def _without(fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def test_rq_info_shows_the_ready_messages(transport: Transport, redis_server: RedisServer) -> None:
    transport.publish(notes(5))
    transport.receive(QUEUE, 2, 1.0)
    shown = rq("info", "--url", redis_server.url, "--raw", "--only-queues")
    assert shown.splitlines() == [f"queue {QUEUE} 3, 0 executing, 0 finished, 0 failed"]
    assert transport.depth([QUEUE])[QUEUE].ready == 3


def test_a_job_that_rq_itself_enqueued_is_received(transport: Transport, redis: Redis) -> None:
    (message,) = notes(1)
    Queue(QUEUE, connection=redis, serializer=JSONSerializer).enqueue(
        "pipeline.rq_round.execute_message", message.encode().decode()
    )
    (delivery,) = transport.receive(QUEUE, 1, 1.0)
    assert delivery.payload == message.encode()


def test_a_foreign_job_arrives_as_garbage_and_can_be_acknowledged(transport: Transport, redis: Redis) -> None:
    Queue(QUEUE, connection=redis, serializer=PickleSerializer).enqueue("os.getpid")
    (delivery,) = transport.receive(QUEUE, 1, 1.0)
    assert b"getpid" in delivery.payload
    transport.acknowledge([delivery])
    assert transport.depth([QUEUE])[QUEUE] == Depth(0, 0, None)


def test_an_acknowledged_message_leaves_nothing_behind(transport: Transport, redis: Redis) -> None:
    transport.publish(notes(3))
    transport.acknowledge(transport.receive(QUEUE, 3, 1.0))
    transport.publish(notes(3))
    transport.purge(QUEUE)
    assert {str(key, "ascii") for key in redis.scan_iter()} == {
        "rq:queues",
        f"penstock:consumers:{QUEUE}",
        "penstock:alive:consumer",
    }


def test_ids_whose_job_is_gone_are_passed_over(transport: Transport, redis: Redis) -> None:
    messages = notes(3)
    transport.publish(messages)
    for message in messages[:2]:
        redis.delete(f"rq:job:{message.id}-1")
    (delivery,) = transport.receive(QUEUE, 1, 1.0)
    assert delivery.payload == messages[2].encode()
    assert transport.depth([QUEUE])[QUEUE] == Depth(0, 1, None)


def test_losing_everything_in_the_middle_is_no_error(transport: Transport, redis_server: RedisServer) -> None:
    transport.publish(notes(5))
    received = transport.receive(QUEUE, 2, 1.0)
    redis_server.flush()
    transport.acknowledge(received)
    assert transport.receive(QUEUE, 5, SOON) == []
    assert transport.purge(QUEUE) == 0
    assert transport.depth([QUEUE])[QUEUE] == Depth(0, 0, None)
    transport.publish(notes(1))
    transport.acknowledge(transport.receive(QUEUE, 5, 1.0))
    redis_server.ask("SCRIPT FLUSH")
    transport.publish(notes(1))
    assert len(transport.receive(QUEUE, 5, 1.0)) == 1


def test_a_consumer_started_again_under_its_name_gets_its_messages_at_once(redis_server: RedisServer) -> None:
    earlier = open_transport(redis_server.url, "worker-1")
    earlier.publish(notes(2))
    command = [sys.executable, "-m", "tests.conformance.transport_victim", redis_server.url, "worker-1", QUEUE, "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert json.loads(victim.stdout.readline()) == [0, 1]
        victim.kill()
    received = earlier.receive(QUEUE, 2, 0.0)
    assert [delivery.redelivered for delivery in received] == [True, True]
    earlier.close()


def test_a_living_consumer_keeps_its_messages_however_long_it_works(redis_server: RedisServer) -> None:
    url = f"{redis_server.url}?takeover=1"
    busy, idle = open_transport(url, "busy"), open_transport(url, "idle")
    busy.publish(notes(1))
    held = busy.receive(QUEUE, 1, 1.0)
    assert idle.receive(QUEUE, 1, 2.5) == []
    busy.acknowledge(held)
    assert idle.depth([QUEUE])[QUEUE] == Depth(0, 0, None)
    busy.close()
    idle.close()


def test_a_transport_dropped_without_close_counts_as_dead(redis_server: RedisServer) -> None:
    url = f"{redis_server.url}?takeover=0.5"
    dropped, other = open_transport(url, "dropped"), open_transport(url, "other")
    dropped.publish(notes(1))
    assert len(dropped.receive(QUEUE, 1, 1.0)) == 1
    del dropped
    assert len(other.receive(QUEUE, 1, 10.0)) == 1
    other.close()


def test_after_an_outage_the_living_are_given_time_to_report(redis_server: RedisServer, redis: Redis) -> None:
    """All heartbeats have expired when a broker comes back; who judges at once would take from the living."""
    url = f"{redis_server.url}?takeover=2"
    busy = open_transport(url, "busy")
    busy.publish(notes(1))
    busy.receive(QUEUE, 1, 1.0)
    redis.delete("penstock:alive:busy")
    newcomer = open_transport(url, "newcomer")
    assert newcomer.receive(QUEUE, 1, 1.5) == []
    busy.close()
    newcomer.close()


def test_what_a_lost_reply_had_moved_is_delivered_again(transport: Transport, redis: Redis) -> None:
    transport.publish(notes(1))
    transport.acknowledge(transport.receive(QUEUE, 1, 1.0))
    failed: list[BrokerUnavailable] = []

    def wait() -> None:
        try:
            transport.receive(QUEUE, 1, 60.0)
        except BrokerUnavailable as error:
            failed.append(error)

    def disconnected() -> bool:
        redis.client_kill_filter(_type="normal", skipme=True)
        return bool(failed)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(disconnected, within=20.0)
    thread.join()
    (message,) = notes(1)
    transport.publish([message])
    redis.lmove(queue_key(QUEUE), inflight_key(QUEUE, "consumer"), "LEFT", "RIGHT")
    (delivery,) = transport.receive(QUEUE, 1, 1.0)
    assert delivery.payload == message.encode()


def test_a_broker_that_answers_nothing_is_reported_and_comes_back(redis_server: RedisServer) -> None:
    transport = open_transport(f"{redis_server.url}?socket_timeout=0.5", "patient")
    transport.publish(notes(1))
    redis_server.suspend()
    try:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="cannot count optimisation"):
            transport.depth([QUEUE])
        assert time.monotonic() - started < 5.0
    finally:
        redis_server.resume()
    assert len(eventually(lambda: transport.receive(QUEUE, 1, 1.0))) == 1
    transport.close()


def test_a_thousand_messages_are_published_in_one_round(transport: Transport, redis: Redis) -> None:
    transport.publish(notes(1))
    before = _calls(redis)
    transport.publish(notes(1000))
    assert _calls(redis) - before == 1


def _calls(redis: Redis) -> int:
    stats: dict[str, dict[str, int]] = redis.info("commandstats")
    return stats["cmdstat_evalsha"]["calls"]


def test_the_socket_serves_as_well(redis_server: RedisServer) -> None:
    transport = open_transport(f"{redis_server.socket_url}?takeover=5", "local")
    transport.publish(notes(1))
    assert len(transport.receive(QUEUE, 1, 1.0)) == 1
    transport.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:s3cret@127.0.0.1:1/0", "redis://user:***@127.0.0.1:1/0"),
        ("redis://:s3cret@127.0.0.1:1/0", "redis://:***@127.0.0.1:1/0"),
        ("redis://127.0.0.1:1/0?password=s3cret&takeover=3", "redis://127.0.0.1:1/0?password=***&takeover=3"),
        ("unix:///nowhere/redis.sock?password=s3cret", "unix:///nowhere/redis.sock?password=***"),
    ],
)
def test_the_error_names_the_broker_without_its_password(url: str, shown: str) -> None:
    transport = open_transport(url, "consumer")
    with pytest.raises(BrokerUnavailable) as caught:
        transport.depth([QUEUE])
    assert shown in str(caught.value)
    assert "PENSTOCK_BROKER_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:port/0",
        "redis://127.0.0.1/0?socket_timeuot=3",
        "redis://127.0.0.1/0?takeover=soon",
        "redis://127.0.0.1/0?takeover=0",
        "kafka://127.0.0.1",
    ],
)
def test_a_wrong_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(BadSettings, match="PENSTOCK_BROKER_URL"):
        open_transport(url, "consumer")


def test_a_full_broker_refuses_a_publication_as_a_whole(transport: Transport, redis: Redis) -> None:
    transport.publish(notes(1))
    redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(BrokerUnavailable, match="cannot publish to optimisation"):
            transport.publish(notes(3))
    finally:
        redis.config_set("maxmemory", "0")
    assert len(list(redis.scan_iter("rq:job:*"))) == 1
    assert transport.depth([QUEUE])[QUEUE].ready == 1
