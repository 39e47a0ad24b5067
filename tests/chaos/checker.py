"""The verdict on a queue, from what was sent to it and what came out: pure, so that it can be tested without a queue.

The names are those of Jepsen's total-queue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the numbers."""

    attempted: int
    """How many different numbers a publisher tried to publish."""
    confirmed: int
    """How many of them the broker confirmed."""
    received: int
    """How many different numbers came out, of those attempted."""
    lost: tuple[int, ...]
    """Confirmed, and never received: what must not be."""
    unexpected: tuple[int, ...]
    """Received, and never attempted: what must not be either."""
    duplicated: int
    """How many numbers were received more than once, which at least once allows."""
    extra: int
    """Deliveries beyond the first of each number."""
    recovered: int
    """Received though nobody confirmed them: the confirmation was lost, the message was not."""

    @property
    def holds(self) -> bool:
        """Whether the queue kept its promise."""
        return not self.lost and not self.unexpected


def judge(attempted: Iterable[int], confirmed: Iterable[int], received: Iterable[int]) -> Verdict:
    """The verdict on these histories; each may name a number several times."""
    tried, sure, times = set(attempted), set(confirmed), Counter(received)
    came = times.keys() & tried
    return Verdict(
        attempted=len(tried),
        confirmed=len(sure),
        received=len(came),
        lost=tuple(sorted(sure - times.keys())),
        unexpected=tuple(sorted(times.keys() - tried)),
        duplicated=sum(many > 1 for many in times.values()),
        extra=times.total() - len(times),
        recovered=len(came - sure),
    )
