"""What every transport does, tried on every transport."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from typing import ClassVar

import pytest

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Delivery, Depth, Transport
from schemas.messages import MAX_BYTES, Body, Message, decode
from tests.conformance.transport_brokers import Broker, MemoryBroker, RedisBroker
from tests.servers import RedisServer
from tests.waiting import eventually

QUEUE = "optimisation"
SOON = 0.05
"""Seconds that a receive waits where nothing is expected."""


class Note(Body):
    """A body of the tests' own."""

    queue: ClassVar[str] = QUEUE
    number: int
    text: str = ""


class OtherNote(Note):
    """The same on another queue."""

    queue: ClassVar[str] = "matching"


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with ExitStack() as stack:
        if request.param == "memory":
            yield MemoryBroker(stack)
        else:
            server: RedisServer = request.getfixturevalue("redis_server")
            yield RedisBroker(stack, server)


def notes(numbers: Sequence[int], body: type[Note] = Note) -> list[Message]:
    return [Message.about(body(number=number), now=datetime.now(UTC)) for number in numbers]


def number_of(delivery: Delivery) -> int:
    body = decode(delivery.payload, {"Note": Note, "OtherNote": OtherNote}).body
    assert isinstance(body, Note)
    return body.number


def numbers_of(deliveries: Sequence[Delivery]) -> list[int]:
    return [number_of(delivery) for delivery in deliveries]


def receive_all(transport: Transport, wanted: int, queue: str = QUEUE) -> list[Delivery]:
    """`wanted` messages, however many receives they take."""
    found: list[Delivery] = []

    def enough() -> bool:
        found.extend(transport.receive(queue, wanted - len(found), 0.5))
        return len(found) >= wanted

    eventually(enough)
    return found


def test_messages_arrive_whole_and_in_the_order_of_publication(broker: Broker) -> None:
    sent = notes(range(5))
    broker.open().publish(sent)
    received = broker.open().receive(QUEUE, 10, 1.0)
    assert [decode(delivery.payload, {"Note": Note}) for delivery in received] == sent
    assert {delivery.queue for delivery in received} == {QUEUE}
    assert not any(delivery.redelivered for delivery in received)


def test_each_message_goes_to_the_queue_of_its_body(broker: Broker) -> None:
    transport = broker.open()
    transport.publish([*notes([1]), *notes([2], OtherNote), *notes([3])])
    assert numbers_of(transport.receive("matching", 10, 1.0)) == [2]
    assert numbers_of(transport.receive(QUEUE, 10, 1.0)) == [1, 3]


def test_publishing_nothing_is_no_error(broker: Broker) -> None:
    transport = broker.open()
    transport.publish([])
    assert transport.receive(QUEUE, 10, SOON) == []


def test_receive_gives_at_most_as_many_as_asked_for(broker: Broker) -> None:
    transport = broker.open()
    transport.publish(notes(range(5)))
    assert numbers_of(transport.receive(QUEUE, 2, 1.0)) == [0, 1]
    assert numbers_of(transport.receive(QUEUE, 2, 1.0)) == [2, 3]
    assert numbers_of(transport.receive(QUEUE, 2, 1.0)) == [4]


def test_receive_on_an_empty_queue_waits_as_long_as_it_was_told(broker: Broker) -> None:
    transport = broker.open()
    started = time.monotonic()
    assert transport.receive(QUEUE, 10, 0.4) == []
    assert 0.4 <= time.monotonic() - started < 3.0


def test_receive_without_a_wait_returns_at_once(broker: Broker) -> None:
    transport = broker.open()
    started = time.monotonic()
    assert transport.receive(QUEUE, 10, 0.0) == []
    transport.publish(notes([1]))
    assert numbers_of(transport.receive(QUEUE, 10, 0.0)) == [1]
    assert time.monotonic() - started < 2.0


def test_a_waiting_receive_returns_when_a_message_comes(broker: Broker) -> None:
    publisher, consumer = broker.open(), broker.open()
    waiting = threading.Event()
    received: list[Delivery] = []

    def wait() -> None:
        waiting.set()
        received.extend(consumer.receive(QUEUE, 10, 30.0))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    publisher.publish(notes([7]))
    thread.join(10.0)
    assert not thread.is_alive()
    assert numbers_of(received) == [7]


def test_an_acknowledged_message_is_gone(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes(range(3)))
    consumer.acknowledge(consumer.receive(QUEUE, 3, 1.0))
    consumer.close()
    assert broker.open().receive(QUEUE, 3, SOON) == []


def test_a_part_of_a_batch_may_be_acknowledged(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes(range(4)))
    received = consumer.receive(QUEUE, 4, 1.0)
    consumer.acknowledge([received[2], received[0]])
    consumer.close()
    assert numbers_of(receive_all(broker.open(), 2)) == [1, 3]


def test_acknowledging_twice_and_nothing_is_no_error(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes([1, 2]))
    received = consumer.receive(QUEUE, 1, 1.0)
    consumer.acknowledge(received)
    consumer.acknowledge(received)
    consumer.acknowledge([])
    assert numbers_of(consumer.receive(QUEUE, 2, 1.0)) == [2]


def test_what_a_closed_transport_held_goes_to_others_first_and_in_order(broker: Broker) -> None:
    first, second = broker.open(), broker.open()
    second.publish(notes(range(4)))
    assert numbers_of(first.receive(QUEUE, 3, 1.0)) == [0, 1, 2]
    first.close()
    received = receive_all(second, 4)
    assert numbers_of(received) == [0, 1, 2, 3]
    assert [delivery.redelivered for delivery in received] == [True, True, True, False]


def test_what_a_dead_consumer_held_goes_to_others_marked_as_redelivered(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes(range(3)))
    assert broker.receive_and_die(QUEUE, 2) == 2
    received = receive_all(consumer, 3)
    assert {number_of(delivery): delivery.redelivered for delivery in received} == {0: True, 1: True, 2: False}


def test_a_late_acknowledgement_takes_nothing_from_the_new_holder(broker: Broker) -> None:
    slow, quick = broker.open(), broker.open()
    slow.publish(notes([1]))
    stale = slow.receive(QUEUE, 1, 1.0)
    broker.lapse(slow)
    (again,) = receive_all(quick, 1)
    assert again.redelivered
    slow.acknowledge(stale)
    quick.close()
    (third,) = receive_all(broker.open(), 1)
    assert number_of(third) == 1


def test_an_acknowledgement_after_close_is_dropped_in_silence(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes([1]))
    received = consumer.receive(QUEUE, 1, 1.0)
    consumer.close()
    consumer.acknowledge(received)
    assert numbers_of(receive_all(broker.open(), 1)) == [1]


def test_closing_twice_is_no_error_and_a_closed_transport_says_so(broker: Broker) -> None:
    transport = broker.open()
    transport.close()
    transport.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        transport.receive(QUEUE, 1, SOON)
    with pytest.raises(BrokerUnavailable, match="closed"):
        transport.publish(notes([1]))


def test_depth_counts_ready_and_in_flight_messages(broker: Broker) -> None:
    consumer = broker.open()
    assert consumer.depth([QUEUE, "matching"]) == {QUEUE: Depth(0, 0, None), "matching": Depth(0, 0, None)}
    consumer.publish(notes(range(5)))
    received = consumer.receive(QUEUE, 2, 1.0)
    depth = broker.open().depth([QUEUE])[QUEUE]
    assert (depth.ready, depth.in_flight) == (3, 2)
    consumer.acknowledge(received[:1])
    assert consumer.depth([QUEUE])[QUEUE].in_flight == 1


def test_depth_tells_the_age_of_the_oldest_message_where_the_broker_can(broker: Broker) -> None:
    transport = broker.open()
    before = time.monotonic()
    transport.publish(notes([1]))
    transport.receive("matching", 1, 0.3)
    age = transport.depth([QUEUE])[QUEUE].oldest_age
    if transport.capabilities.reports_age:
        assert age is not None
        assert 0.3 <= age <= time.monotonic() - before + 0.1
    else:
        assert age is None


def test_purge_throws_away_what_is_ready_and_leaves_what_is_in_flight(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish([*notes(range(5)), *notes([9], OtherNote)])
    consumer.receive(QUEUE, 1, 1.0)
    assert broker.open().purge(QUEUE) == 4
    assert consumer.purge(QUEUE) == 0
    assert consumer.receive(QUEUE, 1, SOON) == []
    assert numbers_of(consumer.receive("matching", 1, 1.0)) == [9]
    consumer.close()
    assert numbers_of(receive_all(broker.open(), 1)) == [0]


def test_consumers_share_a_queue_without_duplicates(broker: Broker) -> None:
    broker.open().publish(notes(range(300)))
    seen: list[int] = []

    def work(consumer: Transport) -> None:
        while received := consumer.receive(QUEUE, 7, 0.3):
            seen.extend(numbers_of(received))
            consumer.acknowledge(received)

    threads = [threading.Thread(target=work, args=(broker.open(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(300))


def test_survivors_share_what_a_dead_consumer_held_without_duplicates(broker: Broker) -> None:
    broker.open().publish(notes(range(40)))
    assert broker.receive_and_die(QUEUE, 40) == 40
    counter = count()
    seen: list[int] = []

    def work(consumer: Transport) -> None:
        while len(seen) < 40 and next(counter) < 200:
            received = consumer.receive(QUEUE, 3, 0.1)
            seen.extend(numbers_of(received))
            consumer.acknowledge(received)

    threads = [threading.Thread(target=work, args=(broker.open(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(40))


def test_a_message_of_the_greatest_size_travels(broker: Broker) -> None:
    transport = broker.open()
    bare = len(Message.about(Note(number=1), now=datetime.now(UTC)).encode())
    message = Message.about(Note(number=1, text="x" * (MAX_BYTES - bare - 10)), now=datetime.now(UTC))
    transport.publish([message])
    (delivery,) = transport.receive(QUEUE, 1, 5.0)
    assert decode(delivery.payload, {"Note": Note}) == message


def test_text_in_any_script_travels(broker: Broker) -> None:
    transport = broker.open()
    message = Message.about(Note(number=1, text='Čerenkov "K⁰→ππ" \U0001f300 \\n'), now=datetime.now(UTC))
    transport.publish([message])
    (delivery,) = transport.receive(QUEUE, 1, 5.0)
    assert delivery.payload == message.encode()


def test_a_thousand_messages_published_at_once_all_arrive_in_order(broker: Broker) -> None:
    transport = broker.open()
    transport.publish(notes(range(2500)))
    assert transport.depth([QUEUE])[QUEUE].ready == 2500
    assert numbers_of(receive_all(transport, 2500)) == list(range(2500))


def test_a_message_published_twice_is_delivered_at_least_once_and_ends(broker: Broker) -> None:
    transport = broker.open()
    message = notes([1])
    transport.publish(message)
    transport.publish(message)

    def drained() -> bool:
        transport.acknowledge(transport.receive(QUEUE, 1, SOON))
        depth = transport.depth([QUEUE])[QUEUE]
        return depth.ready == depth.in_flight == 0

    assert numbers_of(transport.receive(QUEUE, 1, 1.0)) == [1]
    transport.close()
    transport = broker.open()
    eventually(drained)


@pytest.mark.parametrize(
    "call",
    [
        lambda transport: transport.publish(notes([1])),
        lambda transport: transport.receive(QUEUE, 1, 5.0),
        lambda transport: transport.depth([QUEUE]),
        lambda transport: transport.purge(QUEUE),
    ],
    ids=["publish", "receive", "depth", "purge"],
)
def test_a_broker_that_is_away_is_reported_at_once(broker: Broker, call: Callable[[Transport], object]) -> None:
    transport = broker.open()
    transport.publish(notes([1]))
    broker.stop()
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        call(transport)
    assert time.monotonic() - started < 5.0


def test_a_transport_works_again_after_its_broker_was_restarted(broker: Broker) -> None:
    transport, idle = broker.open(), broker.open()
    transport.publish(notes([1]))
    held = transport.receive(QUEUE, 1, 1.0)
    idle.depth([QUEUE])
    broker.stop()
    with pytest.raises(BrokerUnavailable):
        transport.acknowledge(held)
    broker.start()
    transport.acknowledge(held)
    transport.publish(notes([2]))
    received = receive_all(transport, 1)
    assert [(number_of(delivery), delivery.redelivered) for delivery in received] == [(2, False)]
    idle.publish(notes([3]))
    assert numbers_of(receive_all(idle, 1)) == [3]


def test_a_receive_that_waits_while_the_broker_dies_is_told(broker: Broker) -> None:
    transport = broker.open()
    waiting = threading.Event()
    errors: list[BrokerUnavailable] = []

    def wait() -> None:
        waiting.set()
        try:
            transport.receive(QUEUE, 1, 30.0)
        except BrokerUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    broker.stop()
    thread.join(10.0)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_closing_while_the_broker_is_away_is_no_error(broker: Broker) -> None:
    transport = broker.open()
    transport.publish(notes([1]))
    transport.receive(QUEUE, 1, 1.0)
    broker.stop()
    transport.close()
