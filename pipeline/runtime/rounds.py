"""One round over a batch: which messages run together, and what is known of each in the end. No I/O.

A group that fails is halved, messages first, then the ids inside one message, until what fails
stands alone; what has succeeded never runs again within the round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.messages import Message
from schemas.outcomes import Outcome

FAILURES_PER_ROUND = 200
"""Failed runs after which a round halves no more: when nearly everything fails, something else is wrong than
one id, and a message of 1,000 ids must not cost 2,000 runs."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that ended without outcomes: it raised, crashed, took too long or too much memory."""

    reason: str
    kind: str = "raised"
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A payload that is no message of this queue."""

    reason: str


Result = Outcome | Failure | Unreadable
Group = tuple[bytes, ...]
"""Payloads that run together."""


class Round:
    """The state of one round: `next`, run it, then `succeeded` or `failed`, until `next` is None."""

    def __init__(self, payloads: Sequence[bytes], read: Callable[[bytes], Message]) -> None:
        self._read = read
        self._groups: deque[Group] = deque([tuple(payloads)] if payloads else [])
        self.running: Group | None = None
        """The payloads that `next` gave last."""
        self._failures = 0
        self.halving = True
        """Whether a group that fails is halved; set to False by who has no time left for it."""
        self.results: list[tuple[bytes, Result]] = []
        """What is known so far; the payload may be a part of a message that came."""

    def next(self) -> Group | None:
        """The payloads to run now, or None when the round is over."""
        self.running = self._groups.popleft() if self._groups else None
        return self.running

    def give_up(self, result: Outcome) -> None:
        """What has not run yet is not run; this is its result."""
        self.results.extend((payload, result) for group in self._groups for payload in group)
        self._groups.clear()

    def succeeded(self, results: Sequence[Outcome | Unreadable]) -> None:
        """What was run gave these results, one for each payload."""
        assert self.running is not None
        self.results.extend(zip(self.running, results, strict=True))

    def failed(self, failure: Failure) -> None:
        """What was run failed as a whole."""
        assert self.running is not None
        self._failures += 1
        if self.halving and self._failures < FAILURES_PER_ROUND:
            halves = self._halves(self.running)
            if halves is not None:
                self._groups.extendleft(reversed(halves))
                return
        self.results.extend((payload, failure) for payload in self.running)

    def _halves(self, group: Group) -> tuple[Group, Group] | None:
        if len(group) > 1:
            middle = len(group) // 2
            return group[:middle], group[middle:]
        try:
            parts = self._read(group[0]).split()
        except ValueError:
            return None
        return None if parts is None else ((parts[0].encode(),), (parts[1].encode(),))
