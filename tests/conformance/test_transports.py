"""What every transport does, tried on every transport."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import count

import pytest

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Delivery, Depth, Transport
from schemas.messages import MAX_BYTES, Message
from tests.conformance.transport_brokers import Broker
from tests.conformance.transport_notes import (
    again,
    drain,
    message_of,
    note,
    note_of,
    notes,
    numbers_of,
    receive_all,
    settled_depth,
)
from tests.waiting import eventually


def test_messages_arrive_whole_and_in_the_order_of_publication(broker: Broker) -> None:
    sent = notes(broker.queue, range(5))
    broker.open().publish(sent)
    received = receive_all(broker.open(), broker.queue, 5)
    assert [message_of(delivery) for delivery in received] == sent
    assert {delivery.queue for delivery in received} == {broker.queue}
    assert not any(delivery.redelivered for delivery in received)


def test_each_message_goes_to_the_queue_of_its_body(broker: Broker) -> None:
    transport = broker.open()
    transport.publish([note(broker.queue, 1), note(broker.other, 2), note(broker.queue, 3)])
    assert numbers_of(transport.receive(broker.other, 10, 5.0)) == [2]
    assert numbers_of(receive_all(transport, broker.queue, 2)) == [1, 3]


def test_publishing_nothing_is_no_error(broker: Broker) -> None:
    transport = broker.open()
    transport.publish([])
    assert transport.receive(broker.queue, 10, broker.soon) == []


def test_receive_gives_at_most_as_many_as_asked_for(broker: Broker) -> None:
    transport = broker.open()
    transport.publish(notes(broker.queue, range(5)))
    assert numbers_of(receive_all(transport, broker.queue, 2)) == [0, 1]
    assert numbers_of(receive_all(transport, broker.queue, 2)) == [2, 3]
    assert numbers_of(receive_all(transport, broker.queue, 1)) == [4]


def test_what_is_asked_for_may_grow_and_shrink(broker: Broker) -> None:
    transport = broker.open()
    transport.publish(notes(broker.queue, range(400)))
    received: list[Delivery] = []
    for wanted in (1, 50, 3, 200, 1, 145):
        batch = receive_all(transport, broker.queue, wanted)
        transport.acknowledge(batch[::2])
        received += batch
    assert numbers_of(received) == list(range(400))


def test_receive_on_an_empty_queue_waits_as_long_as_it_was_told(broker: Broker) -> None:
    transport = broker.open()
    started = time.monotonic()
    assert transport.receive(broker.queue, 10, 0.4) == []
    assert 0.4 <= time.monotonic() - started < 3.0


def test_receive_without_a_wait_returns_at_once(broker: Broker) -> None:
    transport = broker.open()
    transport.receive(broker.queue, 10, 0.0)
    started = time.monotonic()
    assert transport.receive(broker.queue, 10, 0.0) == []
    assert time.monotonic() - started < 2.0
    transport.publish([note(broker.queue, 1)])
    # What is fetched ahead is here a moment later.
    assert numbers_of(eventually(lambda: transport.receive(broker.queue, 10, 0.0), every=0.01)) == [1]


def test_a_waiting_receive_returns_when_a_message_comes(broker: Broker) -> None:
    publisher, consumer = broker.open(), broker.open()
    assert consumer.receive(broker.queue, 10, 0.0) == []
    waiting = threading.Event()
    received: list[Delivery] = []

    def wait() -> None:
        waiting.set()
        received.extend(consumer.receive(broker.queue, 10, 30.0))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    publisher.publish([note(broker.queue, 7)])
    thread.join(10.0)
    assert not thread.is_alive()
    assert numbers_of(received) == [7]


def test_publishers_and_a_consumer_may_be_the_first_ones_at_a_queue_together(broker: Broker) -> None:
    publishers, consumer = [broker.open() for _ in range(3)], broker.open()
    with ThreadPoolExecutor() as threads:
        received = threads.submit(receive_all, consumer, broker.queue, 3)
        for number, publisher in enumerate(publishers):
            # A server may refuse a queue's first messages while the queue is being made.
            threads.submit(again, partial(publisher.publish, [note(broker.queue, number)]))
    assert sorted(numbers_of(received.result())) == [0, 1, 2]


def test_an_acknowledged_message_is_gone(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes(broker.queue, range(3)))
    consumer.acknowledge(receive_all(consumer, broker.queue, 3))
    consumer.close()
    assert broker.open().receive(broker.queue, 3, broker.soon) == []


def test_a_part_of_a_batch_may_be_acknowledged(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes(broker.queue, range(4)))
    received = receive_all(consumer, broker.queue, 4)
    consumer.acknowledge([received[2], received[0]])
    consumer.close()
    assert numbers_of(receive_all(broker.open(), broker.queue, 2)) == [1, 3]


def test_acknowledging_twice_and_nothing_is_no_error(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes(broker.queue, [1, 2]))
    received = receive_all(consumer, broker.queue, 1)
    consumer.acknowledge(received)
    consumer.acknowledge(received)
    consumer.acknowledge([])
    assert numbers_of(consumer.receive(broker.queue, 2, 5.0)) == [2]


def test_what_a_closed_transport_held_goes_to_others_first_and_in_order(broker: Broker) -> None:
    first, second = broker.open(), broker.open()
    second.publish(notes(broker.queue, range(4)))
    assert numbers_of(receive_all(first, broker.queue, 3)) == [0, 1, 2]
    first.close()
    received = receive_all(second, broker.queue, 4)
    assert numbers_of(received) == [0, 1, 2, 3]
    assert _held_are_marked(second, received, {0, 1, 2})


def test_what_a_dead_consumer_held_goes_to_others_marked_as_redelivered(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish(notes(broker.queue, range(3)))
    assert broker.receive_and_die(2) == 2
    received = receive_all(consumer, broker.queue, 3)
    assert sorted(numbers_of(received)) == [0, 1, 2]
    assert _held_are_marked(consumer, received, {0, 1})


def _held_are_marked(transport: Transport, received: list[Delivery], held: set[int]) -> bool:
    """What somebody had received is marked; nothing else is, unless it may have been fetched ahead."""
    marked = {number for delivery in received if delivery.redelivered for number in numbers_of([delivery])}
    return held <= marked if transport.capabilities.fetches_ahead else held == marked


def test_a_message_is_marked_each_time_that_it_comes_again(broker: Broker) -> None:
    broker.open().publish([note(broker.queue, 1)])
    marks: list[bool] = []
    for _ in range(4):
        consumer = broker.open()
        marks += [delivery.redelivered for delivery in receive_all(consumer, broker.queue, 1)]
        consumer.close()
    assert marks == [False, True, True, True]


def test_an_acknowledgement_after_close_is_dropped_in_silence(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish([note(broker.queue, 1)])
    received = receive_all(consumer, broker.queue, 1)
    consumer.close()
    consumer.acknowledge(received)
    assert numbers_of(receive_all(broker.open(), broker.queue, 1)) == [1]


def test_closing_twice_is_no_error_and_a_closed_transport_says_so(broker: Broker) -> None:
    transport = broker.open()
    transport.publish([note(broker.queue, 1)])
    transport.close()
    transport.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        transport.receive(broker.queue, 1, broker.soon)
    with pytest.raises(BrokerUnavailable, match="closed"):
        transport.publish([note(broker.queue, 2)])
    with pytest.raises(BrokerUnavailable, match="closed"):
        transport.depth([broker.queue])
    with pytest.raises(BrokerUnavailable, match="closed"):
        transport.purge(broker.queue)


def test_depth_counts_ready_and_in_flight_messages(broker: Broker) -> None:
    consumer = broker.open()
    assert consumer.depth([broker.queue, broker.other]) == {name: Depth(0, 0, None) for name in _queues(broker)}
    consumer.publish(notes(broker.queue, range(5)))
    settled_depth(consumer, broker.queue, lambda depth: (depth.ready, depth.in_flight) == (5, 0))
    received = receive_all(consumer, broker.queue, 2)
    settled_depth(broker.open(), broker.queue, lambda depth: (depth.ready, depth.in_flight) == (3, 2))
    consumer.acknowledge(received[:1])
    # A consumer that fetches ahead has credit again for another one.
    ahead = consumer.capabilities.fetches_ahead
    settled_depth(consumer, broker.queue, lambda depth: (depth.ready, depth.in_flight) == ((2, 2) if ahead else (3, 1)))


def _queues(broker: Broker) -> tuple[str, str]:
    return broker.queue, broker.other


def test_depth_tells_the_age_of_the_oldest_message_where_the_broker_can(broker: Broker) -> None:
    transport = broker.open()
    before = time.monotonic()
    transport.publish([note(broker.queue, 1)])
    transport.receive(broker.other, 1, 0.3)
    age = transport.depth([broker.queue])[broker.queue].oldest_age
    if transport.capabilities.reports_age:
        assert age is not None
        assert 0.3 <= age <= time.monotonic() - before + 0.1
    else:
        assert age is None


def test_purge_throws_away_what_is_ready_and_leaves_what_is_in_flight(broker: Broker) -> None:
    consumer = broker.open()
    consumer.publish([*notes(broker.queue, range(5)), note(broker.other, 9)])
    held = receive_all(consumer, broker.queue, 1)
    assert numbers_of(held) == [0]
    purged = broker.open().purge(broker.queue)
    rest = consumer.receive(broker.queue, 5, broker.soon)
    assert purged + len(rest) == 4
    assert purged == 4 or consumer.capabilities.fetches_ahead
    assert consumer.purge(broker.queue) == 0
    assert numbers_of(consumer.receive(broker.other, 1, 5.0)) == [9]
    consumer.close()
    assert numbers_of(receive_all(broker.open(), broker.queue, 1)) == [0]


def test_a_queue_that_nobody_has_used_can_be_purged(broker: Broker) -> None:
    assert broker.open().purge(broker.queue) == 0


def test_consumers_share_a_queue_without_duplicates(broker: Broker) -> None:
    broker.open().publish(notes(broker.queue, range(300)))
    seen: list[int] = []

    def work(consumer: Transport) -> None:
        while received := consumer.receive(broker.queue, 7, 0.5):
            seen.extend(numbers_of(received))
            consumer.acknowledge(received)

    threads = [threading.Thread(target=work, args=(broker.open(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(300))


def test_survivors_share_what_a_dead_consumer_held_without_duplicates(broker: Broker) -> None:
    broker.open().publish(notes(broker.queue, range(40)))
    assert broker.receive_and_die(40) == 40
    counter = count()
    seen: list[int] = []

    def work(consumer: Transport) -> None:
        while len(seen) < 40 and next(counter) < 200:
            received = consumer.receive(broker.queue, 3, 0.1)
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
    bare = len(note(broker.queue, 1).encode())
    message = note(broker.queue, 1, "x" * (MAX_BYTES - bare - 10))
    transport.publish([message])
    (delivery,) = transport.receive(broker.queue, 1, 5.0)
    assert message_of(delivery) == message


def test_text_in_any_script_travels(broker: Broker) -> None:
    transport = broker.open()
    text = 'Čerenkov "K⁰→ππ" \U0001f300 \\n \n\r\t\0 :'
    message = Message.about(note_of(broker.queue)(number=1, text=text), now=datetime.now(UTC))
    transport.publish([message])
    (delivery,) = transport.receive(broker.queue, 1, 5.0)
    assert delivery.payload == message.encode()
    assert message_of(delivery) == message


def test_thousands_of_messages_published_at_once_all_arrive_in_order(broker: Broker) -> None:
    transport = broker.open()
    transport.publish(notes(broker.queue, range(2500)))
    settled_depth(transport, broker.queue, lambda depth: depth.ready == 2500)
    assert numbers_of(receive_all(transport, broker.queue, 2500)) == list(range(2500))


def test_a_message_published_twice_is_delivered_at_least_once_and_ends(broker: Broker) -> None:
    transport = broker.open()
    message = [note(broker.queue, 1)]
    transport.publish(message)
    transport.publish(message)
    assert numbers_of(receive_all(transport, broker.queue, 1)) == [1]
    transport.close()
    transport = broker.open()
    assert set(numbers_of(drain(transport, broker.queue, {1}, soon=broker.soon))) == {1}
    settled_depth(transport, broker.queue, lambda depth: depth.ready == depth.in_flight == 0)
