"""A loop's progress, as its process's health sees it."""

from __future__ import annotations

import pytest

from pipeline import turns
from pipeline.store.database import IO_TIMEOUT, MAX_TRIES
from pipeline.turns import BROKER, DATABASE, Turns


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(turns, "time", made)
    return made


def test_a_loop_is_still_once_it_has_not_turned_for_longer_than_its_limit(clock: Clock) -> None:
    loop = Turns()
    clock.now += turns.STILL_LIMIT
    assert loop.seconds_still is None
    clock.now += 1
    assert loop.seconds_still == turns.STILL_LIMIT + 1
    loop.turned()
    assert loop.seconds_still is None


def test_a_loop_that_waits_for_the_outside_has_more_time_and_says_what_does_not_answer(clock: Clock) -> None:
    loop = Turns()
    with loop.outside(DATABASE):
        clock.now += turns.STILL_LIMIT + 1
        assert (loop.seconds_still, loop.hanging) == (None, DATABASE)
        clock.now += turns.OUTSIDE_LIMIT
        assert loop.seconds_still is not None
    assert [loop.seconds_still, loop.hanging, loop.seconds_outside] == [None] * 3, "it goes on from here"
    with loop.outside(BROKER):
        clock.now += turns.HANG_LIMIT
        assert loop.hanging is None


def test_a_process_says_so_within_30_seconds_whoever_asks_every_ten() -> None:
    assert turns.STILL_LIMIT + 10 <= 30
    assert turns.HANG_LIMIT < turns.STILL_LIMIT


def test_all_tries_of_a_transaction_end_before_their_loop_is_called_stuck() -> None:
    wait_between_two = 2.0
    assert MAX_TRIES * (IO_TIMEOUT + wait_between_two) < turns.OUTSIDE_LIMIT
