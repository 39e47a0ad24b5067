"""What every transport does when its broker is away, its connection is cut or somebody dies: nothing is lost."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Delivery, Transport
from tests.conformance.transport_brokers import ServerBroker, StoppableBroker, WiredBroker
from tests.conformance.transport_notes import again, drain, note, notes, numbers_of, receive_all
from tests.proxy import Way
from tests.waiting import eventually


def test_a_broker_that_is_away_is_reported_at_once(stoppable_broker: StoppableBroker) -> None:
    broker = stoppable_broker
    calls: dict[str, Callable[[Transport], object]] = {
        "publish": lambda transport: transport.publish([note(broker.queue, 1)]),
        "receive": lambda transport: transport.receive(broker.queue, 1, 5.0),
        "depth": lambda transport: transport.depth([broker.queue]),
        "purge": lambda transport: transport.purge(broker.queue),
    }
    transports = {name: broker.open() for name in calls}
    for transport in transports.values():
        transport.publish([note(broker.queue, 1)])
        transport.receive(broker.other, 1, 0.0)
    broker.stop()
    for name, call in calls.items():
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                call(transports[name])
            assert time.monotonic() - started < 5.0, name


def test_a_transport_works_again_after_its_broker_was_away(stoppable_broker: StoppableBroker) -> None:
    broker = stoppable_broker
    transport, idle = broker.open(), broker.open()
    transport.publish([note(broker.queue, 1)])
    held = receive_all(transport, broker.queue, 1)
    idle.depth([broker.queue])
    broker.stop()
    with suppress(BrokerUnavailable):
        transport.acknowledge(held)
    broker.start()
    with suppress(BrokerUnavailable):
        transport.acknowledge(held)
    again(lambda: transport.publish([note(broker.queue, 2)]))
    kept = [(1, True)] if transport.capabilities.durable else []
    received = receive_all(transport, broker.queue, len(kept) + 1)
    assert {(*numbers_of([one]), one.redelivered) for one in received} == {*kept, (2, False)}
    again(lambda: idle.publish([note(broker.queue, 3)]))
    assert numbers_of(receive_all(idle, broker.queue, 1)) == [3]


def test_a_receive_that_waits_while_the_broker_goes_away_is_told(stoppable_broker: StoppableBroker) -> None:
    transport = stoppable_broker.open()
    waiting = threading.Event()
    errors: list[BrokerUnavailable] = []

    def wait() -> None:
        waiting.set()
        try:
            transport.receive(stoppable_broker.queue, 1, 30.0)
        except BrokerUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    stoppable_broker.stop()
    thread.join(10.0)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_closing_while_the_broker_is_away_is_no_error(stoppable_broker: StoppableBroker) -> None:
    transport = stoppable_broker.open()
    transport.publish([note(stoppable_broker.queue, 1)])
    receive_all(transport, stoppable_broker.queue, 1)
    stoppable_broker.stop()
    started = time.monotonic()
    transport.close()
    assert time.monotonic() - started < 5.0


def test_a_late_acknowledgement_takes_nothing_from_the_new_holder(stoppable_broker: StoppableBroker) -> None:
    broker = stoppable_broker
    slow, quick = broker.open(), broker.open()
    slow.publish([note(broker.queue, 1)])
    stale = receive_all(slow, broker.queue, 1)
    broker.lapse(slow)
    (redelivered,) = receive_all(quick, broker.queue, 1)
    assert redelivered.redelivered
    broker.mend(slow)
    with suppress(BrokerUnavailable):
        slow.acknowledge(stale)
    quick.close()
    assert numbers_of(receive_all(broker.open(), broker.queue, 1)) == [1]


def test_an_acknowledgement_of_an_earlier_connection_takes_nothing_from_the_present_one(
    wired_broker: WiredBroker,
) -> None:
    broker = wired_broker
    transport = broker.open()
    transport.publish([note(broker.queue, 1)])
    stale = receive_all(transport, broker.queue, 1)
    broker.wire(transport).cut()
    again(lambda: transport.publish([note(broker.queue, 2)]))
    if not transport.capabilities.fetches_ahead:
        return  # a consumer that is more than its connection keeps what it holds
    held = receive_all(transport, broker.queue, 2)
    transport.acknowledge(stale)
    transport.acknowledge([one for one in held if numbers_of([one]) == [2]])
    transport.close()
    assert numbers_of(drain(broker.open(), broker.queue, {1}, soon=broker.soon)) == [1]


CUTS_OF_A_PUBLISH = {
    "as it begins": (Way.TO_SERVER, 0),
    "in the middle": (Way.TO_SERVER, 100_000),
    "before the confirmation": (Way.TO_CLIENT, 0),
    "in the confirmation": (Way.TO_CLIENT, 3),
}


@pytest.mark.parametrize("moment", CUTS_OF_A_PUBLISH)
def test_a_publish_that_is_cut_loses_nothing_that_it_confirmed(wired_broker: WiredBroker, moment: str) -> None:
    broker = wired_broker
    transport = broker.open()
    transport.publish([note(broker.other, 0)])
    cut = broker.wire(transport).cut_after(*CUTS_OF_A_PUBLISH[moment])
    sent = notes(broker.queue, range(1000))
    try:
        transport.publish(sent)
    except BrokerUnavailable:
        again(lambda: transport.publish(sent))
    assert cut.wait(10.0)
    seen = Counter(numbers_of(drain(broker.open(), broker.queue, set(range(1000)), soon=broker.soon)))
    assert set(seen) == set(range(1000))
    assert max(seen.values()) <= 2


@pytest.mark.parametrize("n_bytes", [0, 10_000])
def test_a_receive_that_is_cut_loses_nothing(wired_broker: WiredBroker, n_bytes: int) -> None:
    broker = wired_broker
    consumer = broker.open()
    broker.open().publish(notes(broker.queue, range(500)))
    held = receive_all(consumer, broker.queue, 50)
    cut = broker.wire(consumer).cut_after(Way.TO_CLIENT, n_bytes)
    received: list[Delivery] = []

    def was_cut() -> bool:
        with suppress(BrokerUnavailable):
            received.extend(consumer.receive(broker.queue, 200, 0.2))
        return cut.is_set()

    eventually(was_cut, within=10.0)
    with suppress(BrokerUnavailable):
        consumer.acknowledge(held)
    with suppress(BrokerUnavailable):
        consumer.acknowledge(received)
    settled = set(numbers_of([*held, *received]))
    rest = drain(consumer, broker.queue, set(range(500)) - settled, soon=broker.soon)
    consumer.close()
    rest += drain(broker.open(), broker.queue, set(), soon=broker.soon)
    assert settled | set(numbers_of(rest)) == set(range(500))
    came_again = [delivery for delivery in rest if set(numbers_of([delivery])) <= settled]
    assert all(delivery.redelivered for delivery in came_again)


@pytest.mark.parametrize("n_bytes", [5, 300])
def test_an_acknowledgement_that_is_cut_loses_nothing(wired_broker: WiredBroker, n_bytes: int) -> None:
    broker = wired_broker
    transport, publisher = broker.open(), broker.open()
    publisher.publish(notes(broker.queue, range(100)))
    held = receive_all(transport, broker.queue, 100)
    cut = broker.wire(transport).cut_after(Way.TO_SERVER, n_bytes)
    # Every second one, so that no protocol can put them all into one frame.
    with suppress(BrokerUnavailable):
        transport.acknowledge(held[::2])
    assert cut.wait(10.0)
    publisher.publish([note(broker.queue, 1000)])
    # The same transport goes on by itself; what had not been acknowledged comes again now, or when it closes.
    eventually(lambda: 1000 in numbers_of(again(lambda: transport.receive(broker.queue, 200, 0.5))))
    transport.close()
    due = {*numbers_of(held[1::2]), 1000}
    rest = drain(broker.open(), broker.queue, due, soon=broker.soon)
    assert due <= set(numbers_of(rest)) <= {*range(100), 1000}
    assert all(delivery.redelivered for delivery in rest)


def test_what_was_confirmed_outlives_the_server_where_it_is_durable(server_broker: ServerBroker) -> None:
    broker = server_broker
    publisher, consumer = broker.open(), broker.open()
    publisher.publish(notes(broker.queue, range(1000)))
    held = receive_all(consumer, broker.queue, 50)
    broker.restart()
    with suppress(BrokerUnavailable):
        consumer.acknowledge(held)
    expected = set(range(1000)) if consumer.capabilities.durable else set[int]()
    rest = drain(consumer, broker.queue, expected, soon=broker.soon)
    assert sorted(numbers_of(rest)) == sorted(expected)
    if expected:
        assert set(numbers_of(held)) <= {number for one in rest if one.redelivered for number in numbers_of([one])}
    again(lambda: publisher.publish([note(broker.queue, 1000)]))
    assert numbers_of(receive_all(consumer, broker.queue, 1)) == [1000]


def test_of_two_consumers_in_two_processes_one_is_killed_half_way(wired_broker: WiredBroker) -> None:
    broker = wired_broker
    survivor = broker.open()
    survivor.publish(notes(broker.queue, range(300)))
    first: list[Delivery] = []
    with broker.victim(25, 25, 25, 25) as received:
        first += survivor.receive(broker.queue, 20, broker.soon)
        survivor.acknowledge(first)
    acknowledged, left = {number for batch in received[:-1] for number in batch}, set(received[-1])
    rest = drain(survivor, broker.queue, set(range(300)) - acknowledged - set(numbers_of(first)), soon=broker.soon)
    seen = {delivery.redelivered: set[int]() for delivery in rest} | {True: set()}
    for delivery in rest:
        seen[delivery.redelivered].update(numbers_of([delivery]))
    assert left <= seen[True]
    assert acknowledged | set(numbers_of(first)) | set(numbers_of(rest)) == set(range(300))


def test_a_broker_that_answers_nothing_is_reported_and_comes_back(wired_broker: WiredBroker) -> None:
    broker = wired_broker
    publisher, consumer = broker.open(**broker.impatient), broker.open(**broker.impatient)
    publisher.publish([note(broker.queue, 1)])
    assert numbers_of(receive_all(consumer, broker.queue, 1)) == [1]
    for transport in (publisher, consumer):
        broker.wire(transport).stall()
    with ThreadPoolExecutor() as threads:
        received = threads.submit(consumer.receive, broker.queue, 1, 60.0)
        published = threads.submit(publisher.publish, [note(broker.queue, 2)])
    assert isinstance(received.exception(), BrokerUnavailable)
    assert isinstance(published.exception(), BrokerUnavailable)
    for transport in (publisher, consumer):
        broker.wire(transport).flow()
    again(lambda: publisher.publish([note(broker.queue, 3)]))
    seen = numbers_of(drain(consumer, broker.queue, {3}, soon=broker.soon))
    assert {3} <= set(seen) <= {1, 2, 3}


def test_ten_cuts_in_a_row_while_publishing_and_consuming_lose_nothing(wired_broker: WiredBroker, seed: int) -> None:
    broker, dice = wired_broker, random.Random(seed)
    publisher, consumer = broker.open(), broker.open()
    wires = {"publisher": broker.wire(publisher), "consumer": broker.wire(consumer)}

    def publish() -> None:
        for start in range(0, 2000, 200):
            (whose, way), n_bytes = dice.choice(list(TRAFFIC.items()))
            cut = wires[whose].cut_after(way, dice.randrange(n_bytes))
            for first in range(start, start + 200, 50):
                again(partial(publisher.publish, notes(broker.queue, range(first, first + 50))))
            if not cut.is_set():
                wires[whose].cut()

    thread = threading.Thread(target=publish)
    thread.start()
    seen = set(numbers_of(drain(consumer, broker.queue, set(range(2000)), soon=broker.soon)))
    thread.join()
    assert seen == set(range(2000))


TRAFFIC = {
    ("publisher", Way.TO_SERVER): 40_000,
    ("publisher", Way.TO_CLIENT): 20,
    ("consumer", Way.TO_SERVER): 2_000,
    ("consumer", Way.TO_CLIENT): 40_000,
}
"""Bytes of which a cut comes after so many or fewer: about what 200 messages cost at least."""
