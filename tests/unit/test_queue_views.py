"""How full queues are where the broker does not tell everything."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipeline.queue_views import complete, survey
from pipeline.store.instances import Control, InstanceRow, Load, Wish
from pipeline.transport.port import Depth

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SILENT = Depth(ready=None, in_flight=None, oldest_age=None)


def consumer(*loads: Load, silence: float = 0.0) -> InstanceRow:
    """A consumer that tells of each of its queues."""
    queues = tuple(load.queue for load in loads)
    return earlier(*queues, in_flight=sum(load.in_flight for load in loads), silence=silence, loads=loads)


def earlier(
    *queues: str,
    in_flight: int = 0,
    oldest_age: float | None = None,
    silence: float = 0.0,
    loads: tuple[Load, ...] = (),
) -> InstanceRow:
    """A consumer of a release that does not."""
    return InstanceRow(
        id="c", kind="consumer", queues=queues, version="1", host="h", pid=1, health_url=None, in_flight=in_flight,
        oldest_age=oldest_age, state="running", wish=None, started_at=NOON, last_seen=NOON, silence=silence,
        loads=loads,
    )  # fmt: skip


def test_what_the_broker_tells_stands() -> None:
    told = Depth(3, 1, 2.0)
    assert complete("data", told, [consumer(Load("data", 9, 9.0))]) == told


def test_in_flight_is_what_live_consumers_hold_of_that_queue() -> None:
    rows = [
        consumer(Load("data", 2, None), Load("upkeep", 5, None)),
        consumer(Load("data", 1, None)),
        consumer(Load("data", 7, None), silence=60.0),
    ]
    assert complete("data", SILENT, rows).in_flight == 3
    assert complete("matching", SILENT, rows).in_flight == 0, "nobody serves it"


def test_the_oldest_age_is_what_consumers_saw_last_and_the_time_since() -> None:
    rows = [
        consumer(Load("data", 0, 3.0), silence=4.0),
        consumer(Load("data", 0, 5.0)),
        consumer(Load("data", 0, None)),
    ]
    assert complete("data", Depth(2, 0, None), rows).oldest_age == 7.0
    assert complete("data", Depth(None, None, None), rows).oldest_age == 7.0
    assert complete("data", Depth(0, 0, None), rows).oldest_age is None, "nothing waits"
    assert complete("upkeep", Depth(2, 0, None), rows).oldest_age is None, "nobody has seen anything"


def test_a_consumer_of_an_earlier_release_is_known_by_queue_when_it_serves_only_one() -> None:
    assert complete("data", SILENT, [earlier("data", in_flight=2, oldest_age=1.0)]) == Depth(None, 2, 1.0)
    assert complete("data", SILENT, [earlier("data", "upkeep", in_flight=2, oldest_age=1.0)]) == SILENT


def test_a_consumer_that_serves_a_queue_no_more_says_nothing_of_it() -> None:
    other = consumer(Load("upkeep", 5, 0.1))
    drained = replace(other, queues=("data", "upkeep"))
    assert complete("data", SILENT, [drained, consumer(Load("data", 1, 9.0))]) == Depth(None, 1, 9.0)
    assert survey({"data": SILENT}, [drained], [])[0].consumers == 0


RECENT, BEHIND, NEW = Load("data", 1, 1.0), Load("data", 2, 90.0), Load("data", 0, None)
COMPLETED = {
    "nobody serves it, and nobody tells": (Depth(None, None, None), [], Depth(None, 0, None)),
    "nobody serves it, and something waits": (Depth(4, None, None), [], Depth(4, 0, None)),
    "nothing waits, whatever was seen": (Depth(0, None, None), [BEHIND], Depth(0, 2, None)),
    "the one that is behind counts, since it may hold what it fetched": (
        Depth(None, None, None), [RECENT, BEHIND], Depth(None, 3, 90.0)),
    "one that has just begun knows nothing yet": (Depth(4, None, None), [NEW], Depth(4, 0, None)),
    "and does not hide what others know": (Depth(4, None, None), [NEW, RECENT], Depth(4, 1, 1.0)),
    "what a broker counts in flight is more than was received": (Depth(0, 7, None), [RECENT], Depth(0, 7, None)),
    "an age that a broker tells outranks what was seen": (Depth(4, 7, 5.0), [BEHIND], Depth(4, 7, 5.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPLETED)
def test_what_a_broker_does_not_tell_is_completed(case: str) -> None:
    told, loads, completed = COMPLETED[case]
    assert complete("data", told, [consumer(load) for load in loads]) == completed


def test_a_queue_counts_the_consumers_that_live_and_shows_what_is_wished() -> None:
    rows = [earlier("data"), earlier("data", "matching"), earlier("data", silence=100)]
    (view,) = survey({"data": Depth(0, 0, None)}, rows, [Control("data", Wish.PAUSE, "me", NOON)])
    assert (view.consumers, view.wish) == (2, "pause")


def test_what_nobody_knows_is_unknown_and_not_zero() -> None:
    (view,) = survey({"data": SILENT}, [earlier("data", "upkeep")], [])
    assert (view.ready, view.in_flight, view.oldest_age) == (None, None, None)
