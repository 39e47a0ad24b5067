"""Many threads that wait, and some that never come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from executors.pilots.threads import Bounds, Piece, Threads
from tests.waiting import eventually

FOREVER = 60.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs until the end of the test."""
    gate = threading.Event()
    yield gate
    gate.set()


def nothing() -> None:
    pass


def hanging(threads: Threads[bool], gate: threading.Event, key: int) -> Piece[bool]:
    return threads.begin(key, lambda: gate.wait(FOREVER), nothing)


def test_pieces_of_work_wait_side_by_side() -> None:
    threads: Threads[int] = Threads(Bounds(working=20))
    together = threading.Barrier(20, timeout=FOREVER)
    pieces = [threads.begin(key, together.wait, nothing) for key in range(20)]
    threads.wait(pieces, time.monotonic())
    assert sorted(result for piece in pieces for result in piece.results) == list(range(20))
    assert threads.free() == 20


def test_a_batch_does_not_wait_for_what_hangs_much_longer_than_for_the_others(gate: threading.Event) -> None:
    threads: Threads[bool] = Threads(Bounds(working=2, patience=0.2))
    slow, quick = hanging(threads, gate, 1), threads.begin(2, lambda: True, nothing)
    threads.wait([slow, quick], time.monotonic())
    assert (slow.took, quick.results) == (None, [True])
    assert threads.idle({1, 2}) == {2}
    gate.set()
    eventually(lambda: slow.took is not None)
    assert threads.idle({1, 2}) == {1, 2}


def test_a_batch_waits_no_longer_than_its_own_deadline_allows(gate: threading.Event) -> None:
    threads: Threads[bool] = Threads(Bounds(working=1, patience=FOREVER, longest=0.2))
    slow = hanging(threads, gate, 1)
    assert not threads.wait_for_room(time.monotonic())
    threads.wait([slow], time.monotonic())
    assert slow.took is None


def test_what_does_not_answer_is_given_up_once_and_its_place_is_free_again(gate: threading.Event) -> None:
    threads: Threads[bool] = Threads(Bounds(working=1, hanging=1, answer=0.1, patience=FOREVER))
    told: list[int] = []
    threads.begin(1, lambda: gate.wait(FOREVER), lambda: told.append(1))
    assert threads.wait_for_room(time.monotonic())
    threads.begin(2, lambda: gate.wait(FOREVER), lambda: told.append(2))
    eventually(lambda: told == [1, 2])
    assert threads.idle({1, 2, 3}) == {3}


def test_the_threads_that_hang_are_bounded(gate: threading.Event) -> None:
    threads: Threads[bool] = Threads(Bounds(working=2, hanging=1, answer=0.05, patience=0.2))
    for key in range(3):
        assert threads.wait_for_room(time.monotonic())
        hanging(threads, gate, key)
    assert not threads.wait_for_room(time.monotonic())
    gate.set()
    eventually(lambda: threads.free() == 2)


def test_an_error_is_kept_for_who_waits() -> None:
    threads: Threads[bool] = Threads(Bounds())

    def fail() -> bool:
        raise LookupError("no such place")

    piece = threads.begin(1, fail, nothing)
    threads.wait([piece], time.monotonic())
    assert repr(piece.error) == "LookupError('no such place')"
    assert threads.free() == Bounds().working


def test_stacks_are_small_and_those_of_other_threads_as_before() -> None:
    before = threading.stack_size()
    threads: Threads[int] = Threads(Bounds())
    threads.wait([threads.begin(1, lambda: 1, nothing)], time.monotonic())
    assert threading.stack_size() == before
