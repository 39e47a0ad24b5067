"""The pure rules of upkeep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Horizon:
    """Whether overdue rows of a queue are to be published again, and when they are looked at next (seconds)."""

    publish: bool
    next_look: float


def horizon(oldest_age: float | None, wake_after: float) -> Horizon:
    """What overdue rows mean, given the age of their queue's oldest message (None: it is empty).

    A queue whose oldest message is about as old as the rows' publication still holds their messages: publishing
    again would make a backlog grow. Otherwise their messages are gone.
    """
    age = oldest_age or 0.0
    return Horizon(publish=age < wake_after / 2, next_look=max(wake_after, 2 * age))


def silence_is_general(silent: int, active: int, *, share: float, least: int) -> bool:
    """Whether so many of the active pilots are silent that the fault must be ours, not theirs."""
    return silent >= least and silent > share * active
