"""Which calls are answered together, and what becomes of those that fail together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from threading import Event

import pytest

from pipeline.api.gathering import HELD, MOST, TRIES, Call, Gathering, Held
from pipeline.errors import DatabaseUnavailable

Rounds = list[list[str]]


def echo(rounds: Rounds, held: Event) -> Callable[[Sequence[Call[str]]], list[str | None]]:
    """Answers each call with what it says, in capitals, and notes the round; waits for `held` first."""

    def answer(calls: Sequence[Call[str]]) -> list[str | None]:
        assert held.wait(10)
        rounds.append([call.said for call in calls])
        return [call.said.upper() for call in calls]

    return answer


async def asked(gathering: Gathering[str, str], *calls: Call[str]) -> list[asyncio.Task[str | None]]:
    """Tasks that ask these, in their order, each begun."""
    tasks = [asyncio.create_task(gathering.ask(call)) for call in calls]
    await asyncio.sleep(0)
    return tasks


def rounds_of(first: Call[str], *others: Call[str]) -> Rounds:
    """The rounds in which these are answered, when all others come while the first is being answered."""
    rounds: Rounds = []

    async def run() -> None:
        held = Event()
        gathering = Gathering("test", echo(rounds, held), 0.0)
        tasks = await asked(gathering, first)
        await asyncio.sleep(0)  # its round begins
        tasks += await asked(gathering, *others)
        held.set()
        assert await asyncio.gather(*tasks) == [call.said.upper() for call in (first, *others)]

    asyncio.run(run())
    return rounds


def test_calls_that_come_during_a_round_share_the_next() -> None:
    calls = [Call(f"pilot {n}", f"call {n}", 1) for n in range(4)]
    assert rounds_of(*calls) == [["call 0"], ["call 1", "call 2", "call 3"]]


def test_a_round_answers_a_caller_once() -> None:
    calls = [Call("a", "first", 1), Call("b", "one", 1), Call("b", "two", 1), Call("c", "three", 1)]
    assert rounds_of(*calls) == [["first"], ["one", "three"], ["two"]]


def test_a_round_names_no_more_rows_than_one_transaction_shall() -> None:
    sizes = (MOST - 1, 2, 1, MOST * 2)
    others = [Call(f"pilot {n}", f"{size}", size) for n, size in enumerate(sizes)]
    assert rounds_of(Call("first", "0", 1), *others) == [["0"], [f"{MOST - 1}", "1"], ["2"], [f"{MOST * 2}"]]


def test_calls_that_fail_together_are_each_left_to_a_call_by_itself() -> None:
    def fail(calls: Sequence[Call[str]]) -> list[str | None]:
        raise ValueError(f"{len(calls)} calls")

    async def run() -> list[str | None]:
        tasks = await asked(Gathering("test", fail, 0.0), Call("a", "x", 1), Call("b", "y", 1))
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [None, None]


def test_an_outage_is_told_to_all_of_them() -> None:
    def fail(calls: Sequence[Call[str]]) -> list[str | None]:
        raise DatabaseUnavailable(f"down for {len(calls)}")

    async def run() -> list[str | BaseException | None]:
        tasks = await asked(Gathering("test", fail, 0.0), Call("a", "x", 1), Call("b", "y", 1))
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [str(error) for error in asyncio.run(run())] == ["down for 2", "down for 2"]


@pytest.mark.parametrize("gone", [0, 1])
def test_a_client_that_went_away_takes_no_other_along(gone: int) -> None:
    async def run() -> str | None:
        held = Event()
        gathering = Gathering("test", echo([], held), 0.0)
        tasks = await asked(gathering, Call("a", "x", 1), Call("b", "x", 1))
        tasks[gone].cancel()
        held.set()
        return await tasks[1 - gone]

    assert asyncio.run(run()) == "X"


@pytest.mark.parametrize(("held_for", "answer"), [(2, "X"), (TRIES - 1, "X"), (TRIES, None)])
def test_a_call_whose_rows_are_held_is_in_later_rounds_and_then_left_to_a_call_by_itself(
    held_for: int, answer: str | None
) -> None:
    rounds = 0

    def answered(calls: Sequence[Call[str]]) -> list[str | Held | None]:
        nonlocal rounds
        rounds += 1
        return [HELD if rounds <= held_for and call.caller == "a" else call.said.upper() for call in calls]

    async def run() -> list[str | None]:
        tasks = await asked(Gathering("test", answered, 0.0), Call("a", "x", 1), Call("b", "y", 1))
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [answer, "Y"]
    assert rounds == min(held_for + 1, TRIES)
