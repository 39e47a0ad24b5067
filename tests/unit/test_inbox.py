"""The inbox between a driver's thread and a receiver: in order, never more than asked, awake when something happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pipeline.errors import BrokerUnavailable
from pipeline.transport.inbox import Inbox
from pipeline.transport.port import Delivery


def filled(*numbers: int, queue: str = "q") -> Inbox:
    inbox = Inbox()
    for number in numbers:
        inbox.put(delivery(number, queue))
    return inbox


def delivery(number: int, queue: str = "q") -> Delivery:
    return Delivery(queue, b"", redelivered=False, receipt=number)


def taken(inbox: Inbox, most: int, *, queue: str = "q", wait: float = 0.0) -> list[int]:
    return [found.receipt for found in inbox.take(queue, most, wait)]


def while_waiting(inbox: Inbox, act: Callable[[], None], *, most: int = 1) -> Future[list[int]]:
    """What a receiver gets that began to wait before `act`."""
    with ThreadPoolExecutor() as threads:
        started = threading.Event()

        def wait() -> list[int]:
            started.set()
            return taken(inbox, most, wait=30.0)

        found = threads.submit(wait)
        started.wait()
        act()
    return found


def test_messages_are_taken_in_order_and_at_most_as_many_as_asked_for() -> None:
    inbox = filled(1, 2, 3)
    assert taken(inbox, 2) == [1, 2]
    assert taken(inbox, 2) == [3]
    assert taken(inbox, 2) == []


def test_each_queue_is_taken_by_itself() -> None:
    inbox = filled(1, 2)
    inbox.put(delivery(3, "other"))
    assert taken(inbox, 9, queue="other") == [3]
    assert taken(inbox, 9, queue="third") == []
    assert taken(inbox, 9) == [1, 2]


def test_nothing_comes_after_the_wait_and_not_before() -> None:
    started = time.monotonic()
    assert taken(filled(), 1, wait=0.2) == []
    assert time.monotonic() - started >= 0.2


def test_who_waits_gets_what_comes() -> None:
    inbox = filled()
    assert while_waiting(inbox, lambda: inbox.put(delivery(7))).result() == [7]


def test_who_waits_is_not_woken_for_good_by_another_queue() -> None:
    inbox = filled()

    def act() -> None:
        inbox.put(delivery(1, "other"))
        inbox.put(delivery(2))

    assert while_waiting(inbox, act).result() == [2]


def test_a_full_batch_does_not_wait_for_more() -> None:
    inbox = filled(1, 2)
    started = time.monotonic()
    assert taken(inbox, 2, wait=30.0) == [1, 2]
    assert time.monotonic() - started < 10.0


def test_a_batch_that_is_not_full_does_not_wait_its_time_out() -> None:
    inbox = filled(1)
    started = time.monotonic()
    assert taken(inbox, 2, wait=30.0) == [1]
    assert time.monotonic() - started < 10.0


def test_a_stream_without_end_does_not_hold_a_receiver() -> None:
    inbox, many, received = filled(1), 1_000_000, threading.Event()

    def stream() -> None:
        for number in range(many):
            inbox.put(delivery(number))
            if received.is_set():
                return

    thread = threading.Thread(target=stream)
    thread.start()
    found = taken(inbox, 2 * many, wait=0.0)
    received.set()
    thread.join()
    assert 1 <= len(found) < many


def test_a_failure_is_told_to_who_waits_and_to_who_comes() -> None:
    inbox = filled()
    told = while_waiting(inbox, lambda: inbox.fail(BrokerUnavailable("gone"))).exception()
    assert isinstance(told, BrokerUnavailable)
    assert str(told) == "gone"
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="gone"):
            taken(inbox, 1)


def test_what_was_fetched_before_a_failure_is_the_brokers_again() -> None:
    inbox = filled(1, 2)
    inbox.fail(BrokerUnavailable("gone"))
    with pytest.raises(BrokerUnavailable, match="gone"):
        taken(inbox, 9)
