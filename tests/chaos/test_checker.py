"""The checker is checked: on queues made up, which lose, double and invent what the test wants them to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.brokers import LONG
from tests.chaos.checker import Verdict, judge
from tests.chaos.history import History, count, read
from tests.chaos.nemesis import Kind, draw

NUMBERS = st.sets(st.integers(0, 60))


def test_a_queue_that_delivers_each_message_once_is_without_fault() -> None:
    assert judge([1, 2, 3], [1, 2, 3], [3, 1, 2]) == Verdict(3, 3, 3, (), (), 0, 0, 0)


def test_every_column_counts_what_its_name_says() -> None:
    verdict = judge(attempted=[1, 2, 3, 4, 5], confirmed=[1, 2, 3], received=[2, 2, 2, 3, 4, 9, 9])
    assert verdict.lost == (1,)
    assert verdict.unexpected == (9,)
    assert (verdict.attempted, verdict.confirmed, verdict.received) == (5, 3, 3)
    assert (verdict.duplicated, verdict.extra, verdict.recovered) == (2, 3, 1)
    assert not verdict.holds


def test_a_message_that_nobody_confirmed_may_vanish() -> None:
    assert judge([1, 2], [1], [1]).holds


@given(NUMBERS, st.data())
def test_delivery_at_least_once_is_never_blamed(attempted: set[int], data: st.DataObject) -> None:
    confirmed = data.draw(st.sets(st.sampled_from(sorted(attempted)))) if attempted else set()
    repeats = data.draw(st.lists(st.sampled_from(sorted(attempted)))) if attempted else []
    assert judge(attempted, confirmed, [*confirmed, *repeats]).holds


@given(NUMBERS, NUMBERS, st.lists(st.integers(0, 60)))
def test_every_number_is_accounted_for_once(attempted: set[int], sure: set[int], received: list[int]) -> None:
    confirmed = sure & attempted
    verdict = judge(attempted, confirmed, received)
    assert verdict.received == verdict.confirmed - len(verdict.lost) + verdict.recovered
    assert len(received) == verdict.received + len(verdict.unexpected) + verdict.extra
    assert verdict.duplicated <= verdict.extra
    assert set(verdict.lost) == confirmed - set(received)
    assert set(verdict.unexpected) == set(received) - attempted


@given(st.sets(st.integers(0, 60), min_size=1), st.data())
def test_a_queue_that_drops_confirmed_messages_is_found_out(confirmed: set[int], data: st.DataObject) -> None:
    dropped = data.draw(st.sets(st.sampled_from(sorted(confirmed)), min_size=1))
    verdict = judge(confirmed, confirmed, confirmed - dropped)
    assert set(verdict.lost) == dropped
    assert not verdict.holds


def test_a_history_survives_its_writer_and_a_number_cut_in_half_does_not_count(tmp_path: Path) -> None:
    History(tmp_path / "received-1.txt").note([7, 1_234_567])
    History(tmp_path / "received-2.txt").note([8])
    with (tmp_path / "received-1.txt").open("ab") as torn:
        torn.write(b"00000")
    assert read(tmp_path, "received") == [7, 1_234_567, 8]
    assert count(tmp_path, "received") == 3
    assert read(tmp_path, "confirmed") == []


@given(st.integers(0, 2**64), st.integers(len(LONG), 40))
def test_a_seed_gives_one_schedule_with_every_kind_of_fault(seed: int, many: int) -> None:
    faults = draw(seed, LONG, many)
    assert faults == draw(seed, LONG, many)
    assert {fault.kind for fault in faults} == set(LONG)
    assert len(faults) == many
    given_out = 1 / (many + 1)
    for fault in faults:
        assert fault.share == pytest.approx(given_out)
        assert given_out - 1 / (many + 1) < fault.point < given_out < fault.ahead
        assert LONG[fault.kind][0] <= fault.seconds <= LONG[fault.kind][1]
        given_out = fault.ahead
    assert given_out == 1.0


def test_seeds_differ() -> None:
    assert len({tuple(draw(seed, LONG, 12)) for seed in range(20)}) == 20
    assert {fault.kind for fault in draw(1, {Kind.CUT: (0.0, 0.0)}, 3)} == {Kind.CUT}
