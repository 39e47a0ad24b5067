"""What AMQP promises beyond the port, against a real RabbitMQ."""

from __future__ import annotations

import gc
import logging
import os
import random
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from pipeline.errors import BadSettings, BrokerUnavailable
from pipeline.transport import amqp_channel, amqp_subscription
from pipeline.transport.amqp_subscription import Subscription
from pipeline.transport.port import Delivery, Depth, Transport, open_transport
from tests.conformance.transport_notes import Open, again, drain, note, notes, numbers_of, receive_all, settled_depth
from tests.proxy import Proxy, Way
from tests.rabbitmq import RabbitMqServer
from tests.waiting import eventually

SOON = 0.4
"""Seconds within which what is in a queue has reached a consumer that asks for it."""
USUAL_TIMEOUT = 1_800_000
"""Milliseconds that RabbitMQ gives a consumer for an acknowledgement."""


@pytest.fixture
def transport(rabbitmq_server: RabbitMqServer, opened: Open) -> Transport:
    return opened(rabbitmq_server.amqp_url)


def through(proxy: Proxy, options: str = "") -> str:
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}{options}"


def test_queues_are_durable_quorum_queues(rabbitmq_server: RabbitMqServer, transport: Transport, queue: str) -> None:
    transport.publish([note(queue, 1)])
    made = rabbitmq_server.ask("GET", f"queues/%2F/{queue}")
    assert (made["type"], made["durable"], made["auto_delete"]) == ("quorum", True, False)


def test_a_queue_that_is_there_is_used_as_it_is(
    rabbitmq_server: RabbitMqServer, transport: Transport, queue: str
) -> None:
    rabbitmq_server.ask("PUT", f"queues/%2F/{queue}", {"durable": True, "arguments": {"x-queue-type": "classic"}})
    transport.publish([note(queue, 1)])
    assert numbers_of(receive_all(transport, queue, 1)) == [1]
    assert rabbitmq_server.ask("GET", f"queues/%2F/{queue}")["type"] == "classic"


def test_a_server_without_quorum_queues_gets_durable_ones_of_its_own_kind(
    rabbitmq_server: RabbitMqServer, transport: Transport, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No RabbitMQ of today is without them; to be asked for a kind that it has not heard of is the same to it.
    monkeypatch.setattr(amqp_channel, "PREFERRED_TYPE", "unheard")
    transport.publish([note(queue, 1)])
    made = rabbitmq_server.ask("GET", f"queues/%2F/{queue}")
    assert (made["type"], made["durable"]) == ("classic", True)
    assert numbers_of(receive_all(transport, queue, 1)) == [1]


def test_a_queue_that_another_makes_at_the_same_moment_takes_what_is_published(
    transport: Transport, rabbitmq_server: RabbitMqServer, opened: Open, queue: str
) -> None:
    """RabbitMQ 3.10 now and then refuses the first messages of a queue whose leader is being chosen."""
    other = opened(rabbitmq_server.amqp_url)
    with ThreadPoolExecutor() as threads:
        for name in [f"{queue}-{number}" for number in range(20)]:
            published = threads.submit(other.publish, [note(name, 1)])
            transport.publish([note(name, 2)])
            published.result()
            assert settled_depth(transport, name, lambda depth: depth.ready == 2)


def test_a_thousand_messages_cost_one_wait_for_confirms(
    rabbitmq_server: RabbitMqServer, opened: Open, queue: str
) -> None:
    with Proxy(rabbitmq_server.port) as proxy:
        transport = opened(through(proxy))
        transport.publish([note(queue, 0)])
        proxy.delay = 0.1
        started = time.monotonic()
        transport.publish(notes(queue, range(1, 1001)))
        # Two tenths of a second for each confirm, if each were waited for, are more than three minutes.
        assert time.monotonic() - started < 20.0
        proxy.delay = 0.0
        transport.close()


def test_messages_that_nobody_took_go_to_a_queue_that_is_declared_anew(
    rabbitmq_server: RabbitMqServer, transport: Transport, queue: str
) -> None:
    transport.publish([note(queue, 0)])
    rabbitmq_server.ask("DELETE", f"queues/%2F/{queue}")
    transport.publish(notes(queue, range(1, 4)))
    assert sorted(numbers_of(receive_all(transport, queue, 3))) == [1, 2, 3]


def test_a_consumer_outlives_the_deletion_of_its_queue(
    rabbitmq_server: RabbitMqServer, transport: Transport, queue: str
) -> None:
    transport.publish([note(queue, 0)])
    held = receive_all(transport, queue, 1)
    rabbitmq_server.ask("DELETE", f"queues/%2F/{queue}")
    with pytest.raises(BrokerUnavailable, match="somebody may have deleted the queue"):
        eventually(lambda: transport.receive(queue, 1, SOON))
    transport.acknowledge(held)
    transport.publish([note(queue, 1)])
    assert numbers_of(receive_all(transport, queue, 1)) == [1]


def test_a_vhost_has_queues_of_its_own(
    rabbitmq_server: RabbitMqServer, transport: Transport, opened: Open, queue: str
) -> None:
    vhost = rabbitmq_server.new_vhost()
    transport.publish([note(queue, 1)])
    inside = opened(rabbitmq_server.amqp_url_of(vhost))
    assert inside.receive(queue, 1, 0.0) == []
    inside.publish([note(queue, 2)])
    assert numbers_of(receive_all(inside, queue, 1)) == [2]
    assert numbers_of(receive_all(transport, queue, 1)) == [1]
    inside.close()
    rabbitmq_server.drop_vhost(vhost)


def test_what_the_broker_refuses_is_said_in_a_line_without_the_password(
    rabbitmq_server: RabbitMqServer, opened: Open
) -> None:
    place = f"127.0.0.1:{rabbitmq_server.port}"
    with pytest.raises(BrokerUnavailable) as wrong:
        opened(f"amqp://guest:hush@{place}").depth(["q"])
    assert str(wrong.value) == (
        f"cannot count q at amqp://guest:***@{place}: the broker refused the user or the password;"
        " check the password of user 'guest' in PENSTOCK_BROKER_URL"
    )
    with pytest.raises(
        BrokerUnavailable, match=r"vhost nowhere not found.*check that vhost 'nowhere' exists"
    ) as absent:
        opened(f"amqp://guest:guest@{place}/nowhere").depth(["q"])
    assert "\n" not in str(absent.value)


def test_a_permission_that_is_missing_is_named(rabbitmq_server: RabbitMqServer, opened: Open, queue: str) -> None:
    rabbitmq_server.ask("PUT", "users/reader", {"password": "reader", "tags": ""})
    rabbitmq_server.ask("PUT", "permissions/%2F/reader", {"configure": "", "write": "", "read": ".*"})
    reader = opened(f"amqp://reader:reader@127.0.0.1:{rabbitmq_server.port}")
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match=r"ACCESS_REFUSED.*give user 'reader' the permission on vhost '/'"):
            reader.publish([note(queue, 1)])
    assert reader.depth([queue])[queue].ready == 0


def test_servers_are_tried_in_turn(rabbitmq_server: RabbitMqServer, opened: Open, queue: str) -> None:
    with Proxy(rabbitmq_server.port) as first, Proxy(rabbitmq_server.port) as second:
        transport = opened(f"amqp://guest:guest@127.0.0.1:{first.port},127.0.0.1:{second.port}")
        transport.publish([note(queue, 1)])
        assert (first.connections, second.connections) == (1, 0)
        first.refuse()
        again(lambda: transport.publish([note(queue, 2)]))
        assert second.connections == 1
        second.refuse()
        with pytest.raises(BrokerUnavailable, match=rf"{first.port}: .*refused; 127.0.0.1:{second.port}: .*refused"):
            transport.depth([queue])


def test_tls_is_verified(rabbitmq_server: RabbitMqServer, opened: Open, queue: str, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ours, other = tmp_path / "ours.pem", tmp_path / "other.pem"
    authority.cert_pem.write_to_path(ours)
    stranger.cert_pem.write_to_path(other)
    with Proxy(rabbitmq_server.port, tls=context) as proxy:
        transport = opened(f"amqps://guest:guest@127.0.0.1:{proxy.port}?cafile={ours}")
        transport.publish([note(queue, 1)])
        assert numbers_of(receive_all(transport, queue, 1)) == [1]
        with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            opened(f"amqps://guest:guest@127.0.0.1:{proxy.port}?cafile={other}").depth([queue])
        with pytest.raises(BrokerUnavailable, match=r"CERTIFICATE_VERIFY_FAILED.*localhost"):
            opened(f"amqps://guest:guest@localhost:{proxy.port}?cafile={ours}").depth([queue])
        transport.close()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("amqp://127.0.0.1?cafile=a.pem", "no option 'cafile'"),
        ("amqp://127.0.0.1?heartbeat=never", "heartbeat='never' must be a positive number of seconds"),
        ("amqp://127.0.0.1?management=127.0.0.1:15672", "is no URL of RabbitMQ's management API"),
        ("amqps://127.0.0.1?cafile=/nowhere.pem", "cafile=/nowhere.pem.*name PEM files"),
    ],
)
def test_wrong_options_show_at_the_start(url: str, complaint: str) -> None:
    with pytest.raises(BadSettings, match=complaint):
        open_transport(url, "consumer")


def test_a_consumer_that_the_broker_gave_up_is_told_once_and_goes_on(
    rabbitmq_server: RabbitMqServer, transport: Transport, queue: str
) -> None:
    transport.publish(notes(queue, range(3)))
    rabbitmq_server.control("eval", "application:set_env(rabbit, consumer_timeout, 100).")
    try:
        held = receive_all(transport, queue, 2)
        # The broker looks once a minute, or now.
        rabbitmq_server.control("eval", "timer:sleep(200), [P ! tick || P <- rabbit_channel:list_local()].")
        with pytest.raises(BrokerUnavailable, match="PRECONDITION_FAILED - delivery acknowledgement on channel"):
            eventually(lambda: transport.receive(queue, 1, SOON) and None)
    finally:
        rabbitmq_server.control("eval", f"application:set_env(rabbit, consumer_timeout, {USUAL_TIMEOUT}).")
    transport.acknowledge(held)
    assert sorted(numbers_of(drain(transport, queue, {0, 1}, soon=SOON))) in ([0, 1], [0, 1, 2])


def test_what_was_fetched_for_nobody_goes_to_others(
    rabbitmq_server: RabbitMqServer, transport: Transport, opened: Open, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_subscription, "IDLE", 0.5)
    monkeypatch.setattr(amqp_subscription, "_LOOK", 0.1)
    paused, other = opened(rabbitmq_server.amqp_url), transport
    other.publish([note(queue, 0)])
    held = receive_all(paused, queue, 1)
    paused.receive(queue, 5, 0.0)
    other.publish(notes(queue, range(1, 6)))
    # Nothing goes back while something is in work, since that could not stay with its consumer.
    assert other.receive(queue, 5, 1.5) == []
    paused.acknowledge(held)
    assert sorted(numbers_of(receive_all(other, queue, 5))) == [1, 2, 3, 4, 5]
    other.publish([note(queue, 6)])
    assert numbers_of(receive_all(paused, queue, 1)) == [6]


def test_acknowledgements_in_any_order_are_of_what_they_name(
    rabbitmq_server: RabbitMqServer, transport: Transport, opened: Open, queue: str
) -> None:
    transport.publish(notes(queue, range(30)))
    first, second, third = (receive_all(transport, queue, 10) for _ in range(3))
    transport.acknowledge(second)
    transport.acknowledge([*third[5:], *first[:4], first[6]])
    transport.acknowledge(second)
    transport.close()
    left = {*numbers_of(first[4:6]), *numbers_of(first[7:]), *numbers_of(third[:5])}
    assert sorted(numbers_of(drain(opened(rabbitmq_server.amqp_url), queue, left, soon=SOON))) == sorted(left)


def test_an_acknowledgement_that_names_a_message_twice_is_of_one(transport: Transport, queue: str) -> None:
    transport.publish(notes(queue, range(4)))
    held = receive_all(transport, queue, 3)
    transport.acknowledge([held[1], held[0], held[1], held[0]])
    transport.acknowledge([held[2], held[2]])
    assert numbers_of(receive_all(transport, queue, 1)) == [3]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_order_what_is_left_is_what_was_never_acknowledged(
    rabbitmq_server: RabbitMqServer, opened: Open, queue: str, seed: int
) -> None:
    chance, transport = random.Random(seed), opened(rabbitmq_server.amqp_url)
    transport.publish(notes(queue, range(200)))
    waiting, left = 200, set(range(200))
    received: list[Delivery] = []
    while waiting:
        batch = receive_all(transport, queue, chance.randint(1, min(waiting, 40)))
        waiting -= len(batch)
        received += batch
        # Anything from nothing to all, from several batches, some of it once more.
        dealt_with = chance.choice([batch, received, received[: len(received) // 2]])
        some = chance.choices(dealt_with, k=chance.randint(0, len(dealt_with))) + chance.choice([[], batch])
        transport.acknowledge(some)
        left.difference_update(numbers_of(some))
    assert numbers_of(received) == list(range(200))
    transport.close()
    again_received = drain(opened(rabbitmq_server.amqp_url), queue, left, soon=SOON)
    assert sorted(numbers_of(again_received)) == sorted(left)


def test_a_batch_is_acknowledged_by_one_frame(rabbitmq_server: RabbitMqServer, opened: Open, queue: str) -> None:
    with Proxy(rabbitmq_server.port) as proxy:
        transport = opened(through(proxy))
        transport.publish(notes(queue, range(500)))
        held = receive_all(transport, queue, 500)
        before = proxy.passed[Way.TO_SERVER]
        transport.acknowledge(held)
        transport.depth([queue])
        assert proxy.passed[Way.TO_SERVER] - before < 500
        transport.close()
    assert opened(rabbitmq_server.amqp_url).receive(queue, 1, SOON) == []


def test_an_alarm_of_the_broker_is_waited_for_and_reported(
    rabbitmq_server: RabbitMqServer, opened: Open, queue: str
) -> None:
    transport = opened(f"{rabbitmq_server.amqp_url}?heartbeat=1")
    transport.publish([note(queue, 0)])
    held = receive_all(transport, queue, 1)
    rabbitmq_server.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        with pytest.raises(BrokerUnavailable, match="takes no messages now"):
            eventually(lambda: transport.publish([note(queue, 1)]))
        # What ends an alarm is that consumers go on.
        transport.acknowledge(held)
        counting = opened(rabbitmq_server.counting_amqp_url)
        settled_depth(counting, queue, lambda depth: (depth.ready, depth.in_flight) == (0, 0))
    finally:
        rabbitmq_server.control("set_vm_memory_high_watermark", "absolute", "1GB")
    again(lambda: transport.publish([note(queue, 2)]))
    assert {1, 2} >= set(numbers_of(drain(transport, queue, {2}, soon=SOON)))


def test_a_forked_process_leaves_its_parents_connection_alone(transport: Transport, queue: str) -> None:
    transport.publish([note(queue, 1)])
    held = receive_all(transport, queue, 1)
    child = os.fork()
    if not child:
        done = 1
        try:
            transport.acknowledge(held)
            transport.publish([note(queue, 2)])
            transport.close()
            done = 0
        finally:
            os._exit(done)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # On a connection that was lost meanwhile, the first one would come again.
    transport.publish([note(queue, 3)])
    assert numbers_of(receive_all(transport, queue, 2)) == [2, 3]


def test_who_waits_hears_at_once_of_a_failure_of_the_connections_thread(
    rabbitmq_server: RabbitMqServer, opened: Open, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_subscription, "IDLE", 0.5)
    # A fault of ours that the driver doesn't catch; it has some of its own.
    monkeypatch.setattr(Subscription, "_look", lambda _subscription: 1 / 0)
    transport = opened(rabbitmq_server.amqp_url)
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="division by zero"):
        transport.receive(queue, 1, 60.0)
    assert time.monotonic() - started < 30.0
    transport.publish([note(queue, 1)])
    assert numbers_of(transport.receive(queue, 1, 0.4)) == [1]


def test_a_dropped_transport_keeps_nothing_from_others(
    rabbitmq_server: RabbitMqServer, transport: Transport, queue: str
) -> None:
    dropped = open_transport(rabbitmq_server.amqp_url, "dropped")
    dropped.publish([note(queue, 1)])
    assert numbers_of(receive_all(dropped, queue, 1)) == [1]
    del dropped
    gc.collect()
    (found,) = receive_all(transport, queue, 1)
    assert found.redelivered


def test_a_closed_transport_leaves_no_thread(rabbitmq_server: RabbitMqServer, queue: str) -> None:
    before = set(threading.enumerate())
    transport = open_transport(rabbitmq_server.amqp_url, "brief")
    transport.receive(queue, 1, 0.0)
    assert set(threading.enumerate()) > before
    transport.close()
    assert set(threading.enumerate()) <= before


def test_the_driver_says_nothing_of_its_own(
    rabbitmq_server: RabbitMqServer, opened: Open, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Proxy(rabbitmq_server.port) as proxy:
        transport = opened(through(proxy))
        transport.publish([note(queue, 1)])
        proxy.refuse()
        with pytest.raises(BrokerUnavailable):
            transport.publish([note(queue, 2)])
    assert [record for record in caplog.records if record.name.startswith("pika")] == []


def test_what_is_in_flight_is_unknown_without_the_management_api(
    rabbitmq_server: RabbitMqServer, opened: Open, transport: Transport, queue: str
) -> None:
    transport.publish(notes(queue, range(3)))
    held = receive_all(transport, queue, 1)
    assert transport.depth([queue])[queue] == Depth(ready=2, in_flight=None, oldest_age=None)
    with Proxy(rabbitmq_server.management_port) as proxy:
        management = f"http://guest:guest@127.0.0.1:{proxy.port}"
        counting = opened(f"{rabbitmq_server.amqp_url}?management={management}")
        assert settled_depth(counting, queue, lambda depth: depth.in_flight == 1).ready == 2
        proxy.refuse()
        assert counting.depth([queue])[queue] == Depth(ready=2, in_flight=None, oldest_age=None)
    transport.acknowledge(held)
