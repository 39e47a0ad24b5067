"""Bisecting, against an executor that fails whenever a poisonous id is in what it is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.rounds import FAILURES_PER_ROUND, Failure, Round
from schemas.messages import JobsReceived, Message, decode
from schemas.outcomes import Done

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CATALOGUE = {"JobsReceived": JobsReceived}


def read(payload: bytes) -> Message:
    return decode(payload, CATALOGUE)


def payload(*ids: int) -> bytes:
    return Message.about(JobsReceived(job_ids=ids), now=NOW).encode()


def ids_of(raw: bytes) -> tuple[int, ...]:
    return read(raw).body.ids()


def play(round_: Round, poison: set[int]) -> tuple[Counter[int], int]:
    """Run the round to its end; how often each id was executed, and how many runs that took."""
    executed: Counter[int] = Counter()
    runs = 0
    while (group := round_.next()) is not None:
        runs += 1
        ids = [number for raw in group for number in ids_of(raw)]
        if poison & set(ids):
            round_.failed(Failure("poisoned"))
        else:
            executed.update(ids)
            round_.succeeded([Done()] * len(group))
    return executed, runs


def failed_ids(round_: Round) -> list[int]:
    return [number for raw, result in round_.results if isinstance(result, Failure) for number in ids_of(raw)]


batches = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@given(sizes=batches, poison=st.sets(st.integers(1, 96), max_size=6))
def test_every_id_is_executed_once_but_the_poisonous_which_fail_once(sizes: Sequence[int], poison: set[int]) -> None:
    starts = [1 + sum(sizes[:index]) for index in range(len(sizes))]
    messages = [payload(*range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    everything = set(range(1, sum(sizes) + 1))
    round_ = Round(messages, read)
    executed, _runs = play(round_, poison)
    assert executed == dict.fromkeys(everything - poison, 1)
    assert sorted(failed_ids(round_)) == sorted(everything & poison)


def test_one_poisonous_id_in_a_thousand_costs_about_twice_the_depth() -> None:
    round_ = Round([payload(*range(1, 1001))], read)
    executed, runs = play(round_, {617})
    assert len(executed) == 999
    assert runs <= 2 * 10 + 1


def test_the_work_is_bounded_when_everything_fails() -> None:
    round_ = Round([payload(*range(1, 1001)), payload(*range(1001, 2001))], read)
    executed, runs = play(round_, set(range(1, 2001)))
    assert not executed
    assert runs <= FAILURES_PER_ROUND + 20
    assert sorted(failed_ids(round_)) == list(range(1, 2001))


def test_a_payload_that_is_no_message_fails_alone() -> None:
    round_ = Round([payload(1), b"garbage", payload(2)], read)
    done: list[bytes] = []
    while (group := round_.next()) is not None:
        if b"garbage" in group:
            round_.failed(Failure("crashed"))
        else:
            done.extend(group)
            round_.succeeded([Done()] * len(group))
    assert [ids_of(raw) for raw in done] == [(1,), (2,)]
    assert [raw for raw, result in round_.results if isinstance(result, Failure)] == [b"garbage"]


def test_a_round_that_may_not_halve_fails_as_a_whole() -> None:
    round_ = Round([payload(1, 2), payload(3)], read)
    round_.halving = False
    executed, runs = play(round_, {3})
    assert (executed, runs) == ({}, 1)
    assert failed_ids(round_) == [1, 2, 3]
