"""When overdue rows are published again: their messages are gone, and a queue that nobody serves does not grow."""

from __future__ import annotations

import pytest

from executors.upkeep.decide import Horizon, horizon
from pipeline.transport.port import Depth

WAKE_AFTER = 30.0


@pytest.mark.parametrize("depth", [Depth(0, 0, None), Depth(0, None, None), Depth(0, 7, None)])
def test_an_empty_queue_has_lost_the_messages_of_overdue_rows(depth: Depth) -> None:
    assert horizon(depth, WAKE_AFTER) == Horizon(publish=True, next_look=WAKE_AFTER)


def test_a_queue_that_is_served_in_time_has_lost_them_too() -> None:
    assert horizon(Depth(5, 2, 3.0), WAKE_AFTER) == Horizon(publish=True, next_look=WAKE_AFTER)
    assert horizon(Depth(None, None, 3.0), WAKE_AFTER) == Horizon(publish=True, next_look=WAKE_AFTER)


def test_a_backlog_does_not_grow_and_is_looked_at_at_its_pace() -> None:
    assert horizon(Depth(5, 2, 100.0), WAKE_AFTER) == Horizon(publish=False, next_look=200.0)
    assert horizon(Depth(None, 2, 100.0), WAKE_AFTER) == Horizon(publish=False, next_look=200.0)


@pytest.mark.parametrize("ready", [1, None])
def test_messages_of_an_age_that_nobody_knows_are_left_to_the_consumer_that_is_away(ready: int | None) -> None:
    assert horizon(Depth(ready, 0, None), WAKE_AFTER) == Horizon(publish=False, next_look=WAKE_AFTER)


JUDGED = {
    "empty, and nobody serves it": (Depth(0, 0, None), True, 30.0),
    "empty, and everything is with consumers": (Depth(0, 200, None), True, 30.0),
    "unknown, and an idle consumer has just looked": (Depth(None, 0, 0.3), True, 30.0),
    "unknown, and its consumer is up to date": (Depth(None, None, 14.9), True, 30.0),
    "unknown, and its consumer may be behind": (Depth(None, 5, 15.0), False, 30.0),
    "unknown, and its consumer is behind": (Depth(None, 5, 100.0), False, 200.0),
    "unknown, and nobody looks": (Depth(None, 0, None), False, 30.0),
    "full, and nobody looks": (Depth(3, 0, None), False, 30.0),
    "full, and young": (Depth(3, 0, 14.9), True, 30.0),
    "full, and old": (Depth(3, 0, 15.1), False, 30.2),
    "full, and paused for a day": (Depth(3, 0, 86_400.0), False, 300.0),
}


@pytest.mark.parametrize("case", JUDGED)
def test_overdue_rows_are_judged_by_what_is_known_of_their_queue(case: str) -> None:
    depth, publish, next_look = JUDGED[case]
    assert horizon(depth, WAKE_AFTER) == Horizon(publish, next_look)
