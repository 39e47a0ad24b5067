"""What an executor says of a message, and how long to wait before it is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.messages import Message


@dataclass(frozen=True, slots=True)
class Done:
    """The message is dealt with; `follow_ups` are published before it is acknowledged."""

    follow_ups: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again `after` seconds (None: the consumer's back-off).

    `outside` says that something outside is down: no attempt is taken, and age bounds the retries.
    """

    reason: str
    after: float | None = None
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Dead:
    """Never try again: the message becomes a dead letter."""

    reason: str


Outcome = Done | Retry | Dead


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter: uniform in [0, min(cap, base * factor ** (attempt - 1))] seconds.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0

    def __post_init__(self) -> None:
        if self.base <= 0 or self.factor < 1 or self.cap < self.base:
            raise ValueError(f"a back-off wants 0 < base <= cap and factor >= 1, not {self}")

    def ceiling(self, attempt: int) -> float:
        """The longest wait in seconds after `attempt` (1 is the first) has failed."""
        exponent = min(attempt - 1, 64)
        return min(self.cap, self.base * self.factor**exponent)

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait; `chance` is uniform in [0, 1) and passed in, so that this stays pure."""
        return self.ceiling(attempt) * chance
