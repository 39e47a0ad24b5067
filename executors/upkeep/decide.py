"""The pure rules of upkeep."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.transport.port import Depth


@dataclass(frozen=True, slots=True)
class Horizon:
    """Whether overdue rows of a queue are to be published again, and when they are looked at next (seconds)."""

    publish: bool
    next_look: float


_LONGEST_LOOK = 10
"""Times `wake_after`: what a broker loses after a day's pause shall not wait for two more."""


def horizon(depth: Depth, wake_after: float) -> Horizon:
    """What overdue rows mean, given how full their queue is, by the broker and its consumers.

    A queue whose oldest message is about as old as the rows' publication still holds their messages: publishing
    again would make a backlog grow. So it would where messages wait and nobody knows how old they are, since no
    consumer has looked at them: then nobody would serve new ones, either. Otherwise their messages are gone.
    """
    if depth.ready != 0 and depth.oldest_age is None:
        return Horizon(publish=False, next_look=wake_after)
    age = depth.oldest_age or 0.0
    return Horizon(publish=age < wake_after / 2, next_look=max(wake_after, min(2 * age, _LONGEST_LOOK * wake_after)))


def silence_is_general(silent: int, active: int, *, share: float, least: int) -> bool:
    """Whether so many of the active pilots are silent that the fault must be ours, not theirs."""
    return silent >= least and silent > share * active
