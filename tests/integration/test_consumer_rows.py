"""Deferred messages, dead letters, stamps, redeliveries, instances and controls, in SQLite and MariaDB."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import pytest
from sqlalchemy import select

from pipeline.errors import BadInput, NotFound
from pipeline.runtime.verdicts import bury_message, bury_unreadable
from pipeline.store import instances, tables
from pipeline.store.database import Database
from pipeline.store.instances import Identity, Load, Pulse, Wish
from pipeline.store.messages import (
    DeadLetterFilter,
    Deferral,
    bury,
    count_redelivery,
    defer,
    drop,
    due,
    forget,
    forget_old_redeliveries,
    forget_redeliveries,
    list_dead,
    requeue,
    show_dead,
)
from schemas.messages import JobsReceived, Message, Tick, decode

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def jobs(database: Database) -> None:
    """2,500 received jobs, of ids 1 on."""
    database.transact(
        lambda tx: tx.add_all(
            tables.jobs,
            [
                {
                    "id": job_id, "vo_id": 1, "campaign_id": 1, "step_id": 1, "spec_id": 1, "array_index": job_id,
                    "state": "received", "created_at": tx.now, "changed_at": tx.now, "wake_at": tx.after(10),
                }
                for job_id in range(1, 2501)
            ],
        )
    )  # fmt: skip


def read(queue: str, payload: bytes) -> Message:
    assert queue in {"optimisation", "upkeep"}
    return decode(payload, {"JobsReceived": JobsReceived, "Tick": Tick})


def about(*job_ids: int) -> Message:
    return Message.about(JobsReceived(job_ids=job_ids), now=NOW)


class JobRow(NamedTuple):
    wake_at: datetime | None
    dead_letter_id: int | None


def job(database: Database, job_id: int) -> JobRow:
    query = select(tables.jobs.c.wake_at, tables.jobs.c.dead_letter_id).where(tables.jobs.c.id == job_id)
    row = database.transact(lambda tx: tx.first(query))
    assert row is not None
    return JobRow(row.wake_at, row.dead_letter_id)


def test_a_deferred_message_is_due_once_and_claimed_by_one(database: Database) -> None:
    message = about(1)
    database.transact(
        lambda tx: defer(tx, [Deferral(message, "later", 0.0), Deferral(about(2), "much later", 60.0)], wake_after=30)
    )
    claimed = database.transact(lambda tx: due(tx, 10))
    assert [read(row.queue, row.payload.encode()) for row in claimed] == [message]
    assert database.transact(lambda tx: due(tx, 10)) == []
    database.transact(lambda tx: forget(tx, [row.id for row in claimed]))
    assert len(database.transact(lambda tx: tx.rows(select(tables.deferred_messages)))) == 1


def test_a_claim_that_came_to_nothing_is_due_again(database: Database) -> None:
    database.transact(lambda tx: defer(tx, [Deferral(about(1), "later", 0.0)], wake_after=30))
    first = database.transact(lambda tx: due(tx, 10, lease=0.0))
    assert database.transact(lambda tx: due(tx, 10)) == first


def test_reconcile_is_kept_off_rows_whose_message_is_deferred(database: Database) -> None:
    database.transact(lambda tx: defer(tx, [Deferral(about(1), "later", 100.0)], wake_after=30))
    now = database.now()
    wake_at = job(database, 1).wake_at
    assert wake_at is not None
    assert 125 < (wake_at - now).total_seconds() <= 130


def test_a_dead_letter_stamps_its_rows_and_requeue_clears_them(database: Database) -> None:
    message = about(*range(1, 1001)).model_copy(update={"attempt": 5})
    (letter,) = database.transact(lambda tx: bury(tx, [bury_message(message, "broken", "line 1")]))
    assert job(database, 1000) == (None, letter)
    assert job(database, 1001).dead_letter_id is None
    (released,) = database.transact(lambda tx: requeue(tx, [letter], read, wake_after=30))
    assert (released.message.attempt, released.message.body) == (1, message.body)
    assert released.message.id != message.id
    assert job(database, 1000).dead_letter_id is None
    assert job(database, 1000).wake_at is not None
    assert database.transact(lambda tx: list_dead(tx, DeadLetterFilter())) == []
    kept = database.transact(lambda tx: tx.rows(select(tables.deferred_messages)))
    assert [row.id for row in kept] == [released.deferred_id], "until somebody has published it"


def test_requeue_leaves_rows_alone_that_another_dead_letter_has_stamped(database: Database) -> None:
    first, second = (database.transact(lambda tx: bury(tx, [bury_message(about(1), "broken")]))[0] for _ in range(2))
    database.transact(lambda tx: requeue(tx, [first], read, wake_after=30))
    assert job(database, 1) == (None, second)


def test_dropping_a_dead_letter_leaves_its_rows_stamped(database: Database) -> None:
    (letter,) = database.transact(lambda tx: bury(tx, [bury_message(about(1), "broken")]))
    assert database.transact(lambda tx: drop(tx, [letter, 999_999])) == 1
    assert job(database, 1) == (None, letter)


def test_a_dead_letter_that_can_t_be_read_is_not_requeued(database: Database) -> None:
    burials = [bury_unreadable("optimisation", b"\xff\x00", "unreadable: no JSON"), bury_message(about(1), "broken")]
    letters = database.transact(lambda tx: bury(tx, burials))
    with pytest.raises(BadInput, match=f"dead letter {letters[0]} can't be requeued"):
        database.transact(lambda tx: requeue(tx, letters, read, wake_after=30))
    assert database.transact(lambda tx: show_dead(tx, letters[0])).payload == b"\xff\x00"
    assert job(database, 1).dead_letter_id == letters[1]
    with pytest.raises(NotFound, match="no dead letter 999999"):
        database.transact(lambda tx: requeue(tx, [999_999], read, wake_after=30))
    with pytest.raises(NotFound, match="no dead letter 999999"):
        database.transact(lambda tx: show_dead(tx, 999_999))


def test_dead_letters_are_listed_by_filters_and_page_by_page(database: Database) -> None:
    tick = Message.about(Tick(name="reconcile", scheduled_for=NOW), now=NOW)
    burials = [bury_message(about(n), f"reason {n} is 100% sure") for n in range(1, 6)] + [
        bury_message(tick, "late \udcff")
    ]
    letters = database.transact(lambda tx: bury(tx, burials))

    def ids(wanted: DeadLetterFilter, after: int | None = None, limit: int = 100) -> list[int]:
        return [letter.id for letter in database.transact(lambda tx: list_dead(tx, wanted, after=after, limit=limit))]

    every = DeadLetterFilter()
    assert ids(every) == letters[::-1]
    assert ids(every, limit=2, after=letters[3]) == [letters[2], letters[1]]
    assert ids(DeadLetterFilter(queue="upkeep")) == [letters[5]]
    assert ids(DeadLetterFilter(type="Tick")) == [letters[5]]
    assert ids(DeadLetterFilter(reason="3 is 100%")) == [letters[2]]
    assert ids(DeadLetterFilter(reason="1%0")) == []
    assert ids(DeadLetterFilter(since=NOW)) == letters[::-1]
    assert ids(DeadLetterFilter(since=datetime(2999, 1, 1, tzinfo=UTC))) == []
    assert ids(DeadLetterFilter(ids=(letters[0],))) == [letters[0]]


def test_redeliveries_are_counted_until_the_message_is_dealt_with(database: Database) -> None:
    assert [database.transact(lambda tx: count_redelivery(tx, "a")) for _ in range(3)] == [1, 2, 3]
    assert database.transact(lambda tx: count_redelivery(tx, "b")) == 1
    database.transact(lambda tx: forget_redeliveries(tx, ["a"]))
    assert database.transact(lambda tx: count_redelivery(tx, "a")) == 1
    assert database.transact(lambda tx: forget_old_redeliveries(tx, 60)) == 0
    assert database.transact(lambda tx: forget_old_redeliveries(tx, -60)) == 2


def identity(name: str, *queues: str) -> Identity:
    return Identity(name, "consumer", queues, "0.1.0", "host", 7, "http://127.0.0.1:1")


def test_an_instance_is_listed_until_it_leaves(database: Database) -> None:
    me = identity("me", "matching", "data")
    database.transact(lambda tx: instances.beat(tx, me, Pulse()))
    database.transact(lambda tx: instances.beat(tx, me, Pulse(3, 1.5, "paused")))
    (row,) = database.transact(instances.list_instances)
    assert (row.queues, row.in_flight, row.oldest_age, row.state) == (("matching", "data"), 3, 1.5, "paused")
    assert row.silence < 5
    assert database.transact(lambda tx: instances.forget_silent(tx, 60)) == 0
    database.transact(lambda tx: instances.leave(tx, "me"))
    assert database.transact(instances.list_instances) == []


def test_a_queue_that_a_process_serves_no_more_is_not_told_of_any_more(database: Database) -> None:
    me = identity("me", "matching", "data")
    of_matching, of_data = Load("matching", 1, 0.5), Load("data", 2, None)
    for loads in ((of_matching, of_data), (of_data,)):
        pulse = Pulse(loads=loads)
        database.transact(partial(instances.beat, identity=me, pulse=pulse))
        (row,) = database.transact(instances.list_instances)
        assert set(row.loads) == set(loads)


def test_wishes_reach_those_they_are_meant_for(database: Database) -> None:
    me = identity("me", "matching", "data")
    database.transact(lambda tx: instances.beat(tx, me, Pulse()))
    database.transact(lambda tx: instances.pause(tx, "matching", "bob"))
    database.transact(lambda tx: instances.pause(tx, "upkeep", "bob"))
    database.transact(lambda tx: instances.drain_queue(tx, "data", "eve"))
    wishes = database.transact(lambda tx: instances.beat(tx, me, Pulse()))
    assert (wishes.own, wishes.queues) == (None, {"matching": Wish.PAUSE, "data": Wish.DRAIN})
    assert [(c.queue, c.wished_by) for c in database.transact(instances.controls)] == [
        ("data", "eve"), ("matching", "bob"), ("upkeep", "bob"),
    ]  # fmt: skip
    late = identity("late", "matching", "data")
    database.transact(lambda tx: instances.beat(tx, late, Pulse()))
    assert database.transact(lambda tx: instances.beat(tx, late, Pulse())).queues == {"matching": Wish.PAUSE}
    assert database.transact(lambda tx: instances.resume(tx, "matching"))
    assert not database.transact(lambda tx: instances.resume(tx, "matching"))
    database.transact(lambda tx: instances.drain_instance(tx, "me"))
    wishes = database.transact(lambda tx: instances.beat(tx, me, Pulse()))
    assert (wishes.own, wishes.queues) == (Wish.DRAIN, {"data": Wish.DRAIN})
    with pytest.raises(NotFound, match="no instance 'nobody'"):
        database.transact(lambda tx: instances.drain_instance(tx, "nobody"))
