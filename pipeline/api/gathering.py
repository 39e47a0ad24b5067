"""Calls that come at about the same time are answered together, by one transaction in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from anyio import to_thread
from structlog import get_logger

from pipeline.errors import DatabaseUnavailable

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 1_000
"""Rows that the calls of one round may name together: a transaction must not live for seconds."""

TRIES = 10
"""Rounds that a call whose rows another transaction holds is in, before it is made by itself, waiting for them."""

_log = get_logger("api")


@dataclass(frozen=True, slots=True)
class Call(Generic[Q]):
    """One call: who makes it, what it says, and about how many rows."""

    caller: str
    said: Q
    rows: int


class Held:
    """Instead of an answer: another transaction holds the rows of this call."""


HELD = Held()


@dataclass(slots=True)
class _Waiting(Generic[Q, A]):
    call: Call[Q]
    future: asyncio.Future[A | None]
    tries: int = 0


class Gathering(Generic[Q, A]):
    """Belongs to one event loop. `answer` is called in a thread; None for a call that must be made by itself.

    A call that finds nothing going on is answered at once. While a round runs, and for `period` seconds after it
    began, calls gather for the next: the more there are, the less each costs. A caller's second call waits for
    the round after that of the first.
    """

    def __init__(
        self, name: str, answer: Callable[[Sequence[Call[Q]]], Sequence[A | Held | None]], period: float
    ) -> None:
        self._name = name
        self._answer = answer
        self._period = period
        self._waiting: list[_Waiting[Q, A]] = []
        self._rounds: asyncio.Task[None] | None = None

    async def ask(self, call: Call[Q]) -> A | None:
        """The answer, or None when the call must be made by itself. Raises DatabaseUnavailable."""
        future: asyncio.Future[A | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(call, future))
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            pause = asyncio.create_task(asyncio.sleep(self._period))
            await self._round(self._next())
            await pause

    def _next(self) -> list[_Waiting[Q, A]]:
        """The calls that have waited longest, at most one of each caller."""
        chosen: list[_Waiting[Q, A]] = []
        left: list[_Waiting[Q, A]] = []
        callers, rows = set[str](), 0
        for one in self._waiting:
            if one.call.caller in callers or (chosen and rows + one.call.rows > MOST):
                left.append(one)
            else:
                chosen.append(one)
                callers.add(one.call.caller)
                rows += one.call.rows
        self._waiting = left
        return chosen

    async def _round(self, chosen: Sequence[_Waiting[Q, A]]) -> None:
        calls = [one.call for one in chosen]
        try:
            answers = await to_thread.run_sync(lambda: self._answer(calls))
        except DatabaseUnavailable as error:
            for one in chosen:
                if not one.future.done():
                    one.future.set_exception(error)
            return
        except Exception:  # noqa: BLE001 - one of them has a fault: each is made by itself, where it shows
            _log.exception("calls_failed_together", call=self._name, calls=len(calls))
            answers = [None for _ in calls]
        for one, answer in zip(chosen, answers, strict=True):
            self._settle(one, answer)

    def _settle(self, one: _Waiting[Q, A], answer: A | Held | None) -> None:
        if one.future.done():  # its client has gone away
            return
        one.tries += 1
        if not isinstance(answer, Held):
            one.future.set_result(answer)
        elif one.tries < TRIES:
            self._waiting.append(one)
        else:
            one.future.set_result(None)
