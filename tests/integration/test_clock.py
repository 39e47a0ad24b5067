"""Ticks: published at least once, whoever dies, and skipped when nobody can use them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

import pytest
from sqlalchemy import select, update

from pipeline.errors import BadSettings, BrokerUnavailable
from pipeline.store import trigger_runs
from pipeline.store.database import Database
from pipeline.store.instances import Identity, Pulse, beat, leave
from pipeline.store.tables import trigger_runs as runs_table
from pipeline.store.trigger_runs import Run
from pipeline.transport import memory
from pipeline.transport.port import Depth, Transport
from pipeline.trigger import Trigger, tick
from schemas.messages import CORE_BODIES, Message, Tick, decode
from triggers.clock import Clock

EVERY_DAY = {"daily": Trigger("daily", "0 0 * * *", tick("daily"), grace=2 * 86_400.0)}
BODIES = {body.type_name(): body for body in CORE_BODIES}


@pytest.fixture
def broker() -> str:
    return f"memory://{uuid.uuid4().hex}"


def _clock(database: Database, url: str, name: str) -> Clock:
    return Clock(database, memory.open_transport(url, name), EVERY_DAY, name)


def _received(transport: Transport) -> list[datetime]:
    deliveries = transport.receive("upkeep", 100, 0)
    transport.acknowledge(deliveries)
    bodies = [decode(delivery.payload, BODIES).body for delivery in deliveries]
    return [body.scheduled_for for body in bodies if isinstance(body, Tick)]


def test_two_clocks_publish_a_tick_once(database: Database, broker: str) -> None:
    first, second = _clock(database, broker, "a"), _clock(database, broker, "b")
    assert [first.turn(), second.turn(), first.turn()] == [1, 0, 0]
    midnight = database.now().replace(hour=0, minute=0, second=0, microsecond=0)
    assert _received(second.transport) == [midnight]


def test_a_claim_that_stays_unpublished_is_taken_over(database: Database, broker: str) -> None:
    midnight = database.now().replace(hour=0, minute=0, second=0, microsecond=0)
    database.transact(lambda tx: trigger_runs.claim(tx, Run("daily", midnight), "dying"))
    heir = _clock(database, broker, "heir")
    assert heir.turn() == 0, "the claim is fresh: it is still the dying one's"
    database.transact(lambda tx: tx.run(update(runs_table).values(claimed_at=tx.after(-trigger_runs.CLAIM - 1))))
    assert heir.turn() == 1
    assert _received(heir.transport) == [midnight]


def test_a_tick_that_the_broker_did_not_take_comes_when_it_is_back(database: Database, broker: str) -> None:
    clock = _clock(database, broker, "a")
    memory.memory_broker(broker.removeprefix("memory://")).stop()
    with pytest.raises(BrokerUnavailable):
        clock.turn()
    memory.memory_broker(broker.removeprefix("memory://")).start()
    assert clock.turn() == 1


def test_a_tick_that_a_consumer_of_the_release_before_would_bury_is_left_out_until_it_has_gone(
    database: Database, broker: str
) -> None:
    clock = _clock(database, broker, "a")
    clock.triggers = {"new": replace(EVERY_DAY["daily"], name="new", body=tick("new"), since="0.5.0")}
    for name, version in (("old", "0.4.0"), ("new", "0.10.1"), ("odd", "0.5.0+local")):
        known = Identity(name, "consumer", ("upkeep",), version, "here", 1, None)
        database.transact(partial(beat, identity=known, pulse=Pulse()))
    assert clock.turn() == 0
    assert database.read(lambda tx: tx.first(select(runs_table))) is None, "nor is it claimed, or skipped"
    database.transact(lambda tx: leave(tx, "old"))
    assert clock.turn() == 1, "it comes within its grace"
    assert clock.turn() == 0


def test_a_tick_that_the_release_before_would_bury_does_not_wait_in_the_queue_for_whoever_comes(
    database: Database, broker: str
) -> None:
    """Nobody serves the queue for a moment: who takes an upgrade back starts a consumer of the release before next."""
    clock = _clock(database, broker, "a")
    clock.triggers = {"new": replace(EVERY_DAY["daily"], name="new", body=tick("new"), since="0.5.0")}
    left = Run("new", database.now() - timedelta(days=1))
    database.transact(lambda tx: trigger_runs.claim(tx, left, "dead"))
    database.transact(lambda tx: tx.run(update(runs_table).values(claimed_at=tx.after(-trigger_runs.CLAIM - 1))))
    clock.owed = [Run("new", database.now() - timedelta(hours=1))]
    assert clock.turn() == 0
    known = Identity("pilots", "consumer", ("pilots",), "0.5.0", "here", 1, None)
    database.transact(partial(beat, identity=known, pulse=Pulse()))
    assert clock.turn() == 0, "another queue's"
    assert _received(clock.transport) == []
    database.transact(partial(beat, identity=replace(known, id="upkeep", queues=("upkeep",)), pulse=Pulse()))
    database.transact(lambda tx: tx.run(update(runs_table).values(claimed_at=tx.after(-trigger_runs.CLAIM - 1))))
    clock.turn()
    assert left.scheduled_for in _received(clock.transport)


def test_a_tick_is_executed_by_the_first_alone(database: Database, broker: str) -> None:
    clock = _clock(database, broker, "a")
    clock.turn()
    (moment,) = _received(clock.transport)
    run = Run("daily", moment)
    assert database.transact(lambda tx: trigger_runs.mark_executed(tx, run))
    assert not database.transact(lambda tx: trigger_runs.mark_executed(tx, run))


def _yesterdays(database: Database) -> None:
    yesterday = Run("daily", database.now() - timedelta(days=1))
    database.transact(lambda tx: trigger_runs.claim(tx, yesterday, "a"))
    database.transact(lambda tx: trigger_runs.mark_published(tx, [yesterday]))


def test_a_tick_is_skipped_while_the_one_before_it_is_in_the_queue(database: Database, broker: str) -> None:
    clock = _clock(database, broker, "b")
    body = Tick(name="daily", scheduled_for=database.now() - timedelta(days=1))
    clock.transport.publish([Message.about(body, now=database.now())])
    _yesterdays(database)
    assert clock.turn() == 0
    skipped = database.transact(lambda tx: [row.skipped for row in tx.rows(select(runs_table.c.skipped))])
    assert sorted(skipped) == [False, True]


def test_a_tick_does_not_wait_for_one_that_the_broker_lost(database: Database, broker: str) -> None:
    clock = _clock(database, broker, "b")
    _yesterdays(database)
    assert clock.turn() == 1


DOUBTFUL = {
    "fresh, and nobody can tell": (Depth(None, None, None), 60.0, True),
    "fresh, and only consumers that are away could tell": (Depth(3, None, None), 60.0, True),
    "older than the benefit of the doubt": (Depth(3, None, None), 700.0, False),
    "perhaps with a consumer": (Depth(0, None, None), 60.0, True),
    "with a consumer for longer than any batch may take": (Depth(0, 1, None), 700.0, False),
    "in a long backlog": (Depth(3, 0, 700.0), 700.0, True),
    "older than what waits": (Depth(3, 0, 10.0), 60.0, False),
    "gone": (Depth(0, 0, None), 60.0, False),
    "gone, by what an idle consumer has seen": (Depth(None, 0, 1.0), 60.0, False),
    "fetched by a consumer that is behind": (Depth(None, 0, 70.0), 60.0, True),
    "younger than what a consumer has seen last": (Depth(None, 0, 1.0), 2.5, True),
    "fetched and not told of, or lost": (Depth(0, None, None), 700.0, False),
    "without a consumer for long": (Depth(None, 0, None), 700.0, False),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_tick_that_is_not_executed_is_pending_unless_it_is_known_to_be_lost(case: str, database: Database) -> None:
    depth, seconds, is_pending = DOUBTFUL[case]
    _yesterdays(database)
    database.transact(lambda tx: tx.run(update(runs_table).values(published_at=tx.after(-seconds))))
    assert database.read(lambda tx: trigger_runs.is_pending(tx, "daily", depth)) == is_pending


def test_a_tick_that_the_broker_refused_is_published_in_the_next_turn(database: Database, broker: str) -> None:
    transport = Refusing(broker)
    clock = Clock(database, cast("Transport", transport), EVERY_DAY, "a")
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            clock.turn()
    transport.refuses = False
    assert [clock.turn(), clock.turn()] == [1, 0]
    assert len(_received(memory.open_transport(broker, "b"))) == 1


def test_a_turn_without_ticks_does_not_show_that_the_broker_takes_any(database: Database, broker: str) -> None:
    transport = Refusing(broker)
    clock = Clock(database, cast("Transport", transport), EVERY_DAY, "a")
    with pytest.raises(BrokerUnavailable):
        clock.turn()
    clock.triggers = {"daily": replace(EVERY_DAY["daily"], grace=1e-6)}
    assert (clock.turn(), clock.owed, clock.refused) == (0, [], True)
    clock.triggers = EVERY_DAY | {"hourly": Trigger("hourly", "0 * * * *", tick("hourly"), grace=7_200.0)}
    transport.refuses = False
    assert (clock.turn(), clock.refused) == (1, False)


class Refusing:
    """Publishes nothing, as a broker without free memory; everything else works."""

    def __init__(self, url: str) -> None:
        self._inner = memory.open_transport(url, "refusing")
        self.refuses = True

    def publish(self, messages: Sequence[Message]) -> None:
        if self.refuses:
            raise BrokerUnavailable("publishers are blocked")
        self._inner.publish(messages)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_a_claim_that_is_taken_over_past_its_grace_is_skipped(database: Database, broker: str) -> None:
    clock = _clock(database, broker, "b")
    clock.turn()
    old = Run("daily", database.now() - timedelta(days=30))
    database.transact(lambda tx: trigger_runs.claim(tx, old, "dead"))
    database.transact(lambda tx: tx.run(update(runs_table).values(claimed_at=tx.after(-trigger_runs.CLAIM - 1))))
    assert clock.turn() == 0
    assert not database.transact(trigger_runs.any_left)


def test_a_tick_past_its_grace_is_skipped(database: Database, broker: str) -> None:
    late = {"hourly": Trigger("hourly", "0 * * * *", tick("hourly"), grace=1e-6)}
    clock = Clock(database, memory.open_transport(broker, "a"), late, "a")
    assert clock.turn() == 0
    assert clock.transport.receive("upkeep", 1, 0) == []


def test_a_schedule_counts_in_utc_with_seconds_as_a_sixth_field() -> None:
    trigger = Trigger("t", "* * * * * */20", tick("t"))
    now = datetime(2026, 11, 21, 10, 0, 47, tzinfo=UTC)
    assert trigger.last_due(now) == datetime(2026, 11, 21, 10, 0, 40, tzinfo=UTC)
    assert trigger.last_due(now.replace(second=40)) == datetime(2026, 11, 21, 10, 0, 40, tzinfo=UTC)
    assert trigger.period(now) == 20.0


def test_a_bad_expression_is_refused() -> None:
    with pytest.raises(BadSettings, match="no cron expression"):
        Trigger("t", "every day", tick("t"))
