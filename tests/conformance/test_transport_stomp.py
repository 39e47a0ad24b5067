"""What STOMP promises beyond the port, against a real ActiveMQ and a real RabbitMQ."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import trustme

from pipeline.errors import BadSettings, BrokerUnavailable
from pipeline.transport.port import Depth, open_transport
from tests.activemq import ActiveMqServer
from tests.conformance.transport_notes import Open, again, drain, note, notes, numbers_of, receive_all
from tests.proxy import Proxy, Way
from tests.rabbitmq import RabbitMqServer
from tests.waiting import eventually


@pytest.fixture(params=["activemq", "rabbitmq"])
def port(request: pytest.FixtureRequest) -> int:
    """Where a server of either kind speaks STOMP."""
    if request.param == "activemq":
        activemq: ActiveMqServer = request.getfixturevalue("activemq_server")
        return activemq.port
    rabbitmq: RabbitMqServer = request.getfixturevalue("rabbitmq_server")
    return rabbitmq.stomp_port


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def test_servers_are_tried_in_turn(port: int, queue: str, opened: Open) -> None:
    with Proxy(port) as first, Proxy(port) as second:
        transport = opened(f"stomp://guest:guest@127.0.0.1:{first.port},127.0.0.1:{second.port}")
        transport.publish([note(queue, 1)])
        assert (first.connections, second.connections) == (1, 0)
        first.refuse()
        again(lambda: transport.publish([note(queue, 2)]))
        assert second.connections == 1
        first.accept()
        second.refuse()
        assert set(numbers_of(again(lambda: receive_all(transport, queue, 2)))) == {1, 2}
        assert first.connections == 2


def test_when_no_server_can_be_reached_each_is_named(opened: Open) -> None:
    with Proxy(1) as first, Proxy(1) as second:
        first.refuse()
        second.refuse()
        transport = opened(f"stomp://127.0.0.1:{first.port},127.0.0.1:{second.port}")
        with pytest.raises(BrokerUnavailable, match=f"{first.port}.*refused; .*{second.port}.*refused"):
            transport.depth(["matching"])


def test_heart_beats_go_both_ways_and_keep_an_idle_connection(port: int, queue: str, opened: Open) -> None:
    with Proxy(port) as proxy:
        transport = opened(f"stomp://guest:guest@127.0.0.1:{proxy.port}?heartbeat=1")
        assert transport.receive(queue, 1, 0.1) == []
        # The second of two beats comes only on a connection that outlived the first pause.
        before = Counter(proxy.chunks)
        eventually(lambda: all(proxy.chunks[way] >= before[way] + 2 for way in Way), within=10)
        transport.publish([note(queue, 1)])
        assert numbers_of(transport.receive(queue, 1, 5.0)) == [1]
        assert proxy.connections == 1


def test_a_broker_without_heart_beats_is_left_in_the_middle_of_a_wait(
    activemq_server: ActiveMqServer, queue: str, opened: Open
) -> None:
    with Proxy(activemq_server.port) as proxy:
        transport = opened(f"stomp://guest:guest@127.0.0.1:{proxy.port}?heartbeat=1")
        transport.receive(queue, 1, 0.0)
        proxy.stall()
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="no heart-beats"):
            transport.receive(queue, 1, 60.0)
        assert time.monotonic() - started < 15.0


def test_a_frozen_broker_does_not_hold_a_publisher_that_it_has_no_room_for(
    activemq_server: ActiveMqServer, queue: str, opened: Open
) -> None:
    with Proxy(activemq_server.port) as proxy:
        transport = opened(f"stomp://guest:guest@127.0.0.1:{proxy.port}?heartbeat=1")
        transport.publish([note(queue, 0)])
        proxy.stall()
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            transport.publish([note(queue, number, "x" * 500_000) for number in range(60)])
        assert time.monotonic() - started < 15.0
        proxy.flow()
        again(lambda: transport.publish([note(queue, 1)]))
        assert {0, 1} <= set(numbers_of(drain(transport, queue, {0, 1}, soon=0.4)))


def test_a_virtual_host_has_queues_of_its_own(rabbitmq_server: RabbitMqServer, queue: str, opened: Open) -> None:
    vhosts = [rabbitmq_server.new_vhost() for _ in range(2)]
    inside, outside = (opened(rabbitmq_server.stomp_url_of(vhost)) for vhost in vhosts)
    inside.publish([note(queue, 1)])
    assert outside.receive(queue, 1, 0.3) == []
    assert numbers_of(inside.receive(queue, 1, 5.0)) == [1]
    with pytest.raises(BrokerUnavailable, match="Virtual host 'nowhere'"):
        opened(rabbitmq_server.stomp_url_of("nowhere")).publish([note(queue, 1)])
    for vhost in vhosts:
        rabbitmq_server.drop_vhost(vhost)


def test_a_wrong_password_is_one_clear_line(port: int, queue: str, opened: Open) -> None:
    with pytest.raises(BrokerUnavailable, match=r"cannot receive from .*: the broker at .* refused: .*guest") as caught:
        opened(f"stomp://guest:wrong@127.0.0.1:{port}").receive(queue, 1, 1.0)
    assert "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert str(caught.value).endswith("the password of user 'guest' and the vhost '/', on which it needs permissions")


def test_a_server_that_cuts_what_it_accepts_is_said_to_end_the_connection(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = opened(f"stomp://127.0.0.1:{server.getsockname()[1]}")

        def cut() -> None:
            accepted, _ = server.accept()
            accepted.close()

        cutting = threading.Thread(target=cut)
        cutting.start()
        with pytest.raises(BrokerUnavailable, match=r"ended the connection; check .* scheme, host and port"):
            transport.depth(["matching"])
        cutting.join()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on a fork beside threads
def test_a_forked_process_that_drops_its_copy_leaves_the_connection_alone(
    activemq_server: ActiveMqServer, queue: str
) -> None:
    with Proxy(activemq_server.port) as proxy:
        transports = [open_transport(f"stomp://guest:guest@127.0.0.1:{proxy.port}", "parent")]
        transports[0].receive(queue, 1, 0.0)
        child = os.fork()
        if child == 0:
            transports.clear()
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        transports[0].publish([note(queue, 1)])
        assert numbers_of(receive_all(transports[0], queue, 1)) == [1]
        assert proxy.connections == 1
        transports[0].close()


def test_tls_carries_everything_to_a_server_that_is_verified(
    activemq_server: ActiveMqServer, queue: str, opened: Open, authority: trustme.CA, tmp_path: Path
) -> None:
    with Proxy(activemq_server.port, tls=_server_side(authority, "127.0.0.1")) as proxy:
        transport = opened(_tls_url(proxy, authority, tmp_path))
        transport.publish([note(queue, number, "x" * 20_000) for number in range(400)])
        received = receive_all(transport, queue, 400)
        assert sorted(numbers_of(received)) == list(range(400))
        transport.acknowledge(received)
        proxy.cut()
        again(lambda: transport.publish([note(queue, 400)]))
        assert 400 in numbers_of(drain(transport, queue, {400}, soon=0.4))


def test_a_server_of_an_unknown_authority_is_refused(
    activemq_server: ActiveMqServer, opened: Open, tmp_path: Path
) -> None:
    with Proxy(activemq_server.port, tls=_server_side(trustme.CA(), "127.0.0.1")) as proxy:
        with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
            opened(_tls_url(proxy, trustme.CA(), tmp_path)).publish([note("matching", 1)])
        with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
            opened(f"stomp+ssl://127.0.0.1:{proxy.port}").publish([note("matching", 1)])


def test_a_server_with_the_certificate_of_another_host_is_refused(
    activemq_server: ActiveMqServer, opened: Open, authority: trustme.CA, tmp_path: Path
) -> None:
    with (
        Proxy(activemq_server.port, tls=_server_side(authority, "elsewhere.example.org")) as proxy,
        pytest.raises(BrokerUnavailable, match=r"certificate is not valid for '127\.0\.0\.1'"),
    ):
        opened(_tls_url(proxy, authority, tmp_path)).publish([note("matching", 1)])


def test_settings_that_cannot_be_are_refused_before_anything_is_connected() -> None:
    for wrong in ("heartbeat=0", "heartbeat=soon", "management=nowhere", "management=http://u:p/w@h:1", "prefetch=10"):
        with pytest.raises(BadSettings, match=wrong.partition("=")[0]):
            open_transport(f"stomp://127.0.0.1:1?{wrong}", "consumer")
    with pytest.raises(BadSettings, match="cafile"):
        open_transport("stomp+ssl://127.0.0.1:1?cafile=/nowhere.pem", "consumer")


def test_what_a_paused_consumer_has_fetched_ahead_goes_to_others_and_a_busy_one_keeps_it(
    activemq_server: ActiveMqServer, queue: str, opened: Open
) -> None:
    busy = opened(activemq_server.url)
    busy.publish(notes(f"{queue}-busy", range(4)))
    long_batch = receive_all(busy, f"{queue}-busy", 2)
    paused, other = opened(activemq_server.url), opened(activemq_server.url)
    paused.publish([note(queue, 0)])
    in_work = receive_all(paused, queue, 1)
    paused.receive(queue, 5, 0.0)
    other.publish(notes(queue, range(1, 6)))
    # Longer than the silence after which a queue counts as paused.
    assert other.receive(queue, 5, 6.5) == []
    busy.acknowledge(long_batch)
    fetched = receive_all(busy, f"{queue}-busy", 2)
    assert [delivery.redelivered for delivery in fetched] == [False, False]
    busy.acknowledge(fetched)
    paused.acknowledge(in_work)
    received = receive_all(other, queue, 5)
    assert sorted(numbers_of(received)) == [1, 2, 3, 4, 5]
    other.acknowledge(received)
    other.close()
    paused.publish([note(queue, 6)])
    assert numbers_of(receive_all(paused, queue, 1)) == [6]


def test_an_error_frame_fails_the_call_with_the_servers_reason(
    rabbitmq_server: RabbitMqServer, queue: str, opened: Open
) -> None:
    rabbitmq_server.ask("PUT", "users/limited", {"password": "limited", "tags": ""})
    nothing = {"configure": "^$", "write": "^$", "read": "^$"}
    rabbitmq_server.ask("PUT", "permissions/%2F/limited", nothing)
    transport = opened(f"stomp://limited:limited@127.0.0.1:{rabbitmq_server.stomp_port}")
    with pytest.raises(BrokerUnavailable, match=f"cannot publish to {queue}.*refused.*ACCESS_REFUSED") as caught:
        transport.publish(notes(queue, range(10)))
    assert "\n" not in str(caught.value)
    with pytest.raises(BrokerUnavailable, match=f"cannot receive from {queue}.*refused"):
        transport.receive(queue, 1, 1.0)


def test_a_message_that_kills_ten_consumers_is_still_there(activemq_server: ActiveMqServer, queue: str) -> None:
    first = open_transport(activemq_server.url, "first")
    first.publish([note(queue, 1)])
    first.close()
    with Proxy(activemq_server.port) as proxy:
        for kill in range(10):
            consumer = open_transport(f"stomp://guest:guest@127.0.0.1:{proxy.port}", f"consumer-{kill}")
            (delivery,) = receive_all(consumer, queue, 1)
            assert delivery.redelivered == (kill > 0)
            proxy.cut()
            consumer.close()
    last = open_transport(activemq_server.url, "last")
    last.acknowledge(receive_all(last, queue, 1))
    assert last.depth([queue, "ActiveMQ.DLQ"]) == {queue: Depth(0, 0, None), "ActiveMQ.DLQ": Depth(0, 0, None)}
    last.close()


def test_a_message_that_was_held_when_activemq_went_down_counts_as_redelivered(
    activemq_server: ActiveMqServer, queue: str, opened: Open
) -> None:
    consumer = opened(activemq_server.url)
    consumer.publish(notes(queue, range(2)))
    held = receive_all(consumer, queue, 1)
    activemq_server.restart()
    received = again(lambda: receive_all(consumer, queue, 2))
    consumer.acknowledge(held)
    assert {number: delivery.redelivered for number, delivery in zip(numbers_of(received), received, strict=True)}[0]
    consumer.acknowledge(received)
    consumer.publish([note(queue, 2)])
    (fresh,) = receive_all(consumer, queue, 1)
    assert numbers_of([fresh]) == [2]
    assert not fresh.redelivered


def test_a_cut_connection_is_subscribed_again(port: int, queue: str, opened: Open) -> None:
    with Proxy(port) as proxy:
        transport = opened(f"stomp://guest:guest@127.0.0.1:{proxy.port}")
        other = opened(f"stomp://guest:guest@127.0.0.1:{port}")
        for number in range(5):
            assert transport.receive(queue, 10, 0.0) == []
            proxy.cut()
            other.publish([note(queue, number)])
            received = again(lambda: receive_all(transport, queue, 1))
            assert numbers_of(received) == [number]
            transport.acknowledge(received)


def test_a_quorum_queue_that_others_declared_is_used_as_it_is(
    rabbitmq_server: RabbitMqServer, queue: str, opened: Open
) -> None:
    quorum = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    rabbitmq_server.ask("PUT", f"queues/%2F/{queue}", quorum)
    publisher, consumer = opened(rabbitmq_server.stomp_url), opened(rabbitmq_server.stomp_url)
    publisher.publish(notes(queue, range(30)))
    received = receive_all(consumer, queue, 30)
    assert numbers_of(received) == list(range(30))
    consumer.acknowledge(received)
    assert consumer.purge(queue) == 0
    assert rabbitmq_server.ask("GET", f"queues/%2F/{queue}")["type"] == "quorum"


def test_a_queue_made_by_stomp_is_a_durable_classic_one(
    rabbitmq_server: RabbitMqServer, queue: str, opened: Open
) -> None:
    opened(rabbitmq_server.stomp_url).publish([note(queue, 1)])
    made = rabbitmq_server.ask("GET", f"queues/%2F/{queue}")
    assert (made["type"], made["durable"], made["auto_delete"], made["exclusive"]) == ("classic", True, False, False)


def test_without_the_management_api_rabbitmq_tells_no_counts(
    rabbitmq_server: RabbitMqServer, queue: str, opened: Open
) -> None:
    assert opened(rabbitmq_server.stomp_url).depth([queue]) == {queue: Depth(None, None, None)}


def test_closing_ends_the_threads_and_says_nothing_whoever_is_away(
    port: int, queue: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(threading.enumerate())
    with Proxy(port) as proxy:
        transports = [open_transport(f"stomp://guest:guest@127.0.0.1:{proxy.port}", f"c{n}") for n in range(3)]
        for transport in transports:
            transport.receive(queue, 1, 0.0)
        started = time.monotonic()
        transports[0].close()
        proxy.stall()
        transports[1].close()
        proxy.flow()
        proxy.refuse()
        transports[2].close()
        transports[2].close()
        assert time.monotonic() - started < 3.0
    eventually(lambda: set(threading.enumerate()) <= before, within=5)
    assert capfd.readouterr() == ("", "")


def _server_side(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def _tls_url(proxy: Proxy, authority: trustme.CA, folder: Path) -> str:
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    return f"stomp+ssl://guest:guest@127.0.0.1:{proxy.port}?cafile={trusted}"
