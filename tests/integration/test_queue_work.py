"""What consumers tell of their work: added up over all of them, whoever ends how."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.store.database import Database
from pipeline.store.instances import Identity, Load, Pulse, beat, leave, list_instances
from pipeline.store.queue_sizes import Work, add_work, all_work
from tests.outside.stage import QUEUE, Stage, StageMaker, end, rehearsal, stages
from tests.servers import RedisServer
from tests.waiting import eventually


@pytest.fixture
def make_stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[StageMaker]:
    redis_server.flush()
    with stages(tmp_path, redis_server.url + "?takeover=2") as make:
        yield make


def settled(stage: Stage) -> int:
    return stage.database.read(all_work).get(QUEUE, Work(QUEUE)).settled


def test_consumers_add_up_what_they_have_done_also_at_their_end(make_stage: StageMaker) -> None:
    stage = make_stage(consumer_slots=2, message_attempts=1)
    first, second = stage.start(), stage.start()
    assert [row.loads[0].slots for row in stage.instances()] == [2, 2]
    stage.publish(*(rehearsal(number) for number in range(1, 101)), rehearsal(101, faults={101: "dead"}))
    stage.wait_for(range(1, 101))
    eventually(lambda: settled(stage) == 101)
    stage.publish(rehearsal(102))
    stage.wait_for([102])
    eventually(stage.empty)
    assert (end(first), end(second)) == (0, 0)
    assert settled(stage) == 102, "what was done after the last beat is told at the end"
    assert 0 < stage.database.read(all_work)[QUEUE].busy_seconds < 60


def test_what_waits_for_the_outside_is_no_work_and_a_killed_consumer_takes_nothing_back(make_stage: StageMaker) -> None:
    stage = make_stage()
    process = stage.start()
    stage.publish(rehearsal(1))
    eventually(lambda: settled(stage) == 1)
    busy = stage.database.read(all_work)[QUEUE].busy_seconds
    stage.publish(rehearsal(2, faults={2: "outside"}))
    eventually(lambda: stage.deferred() == 1)
    stage.publish(rehearsal(3, faults={3: "wait"}))
    eventually(stage.gate_reached)
    end(process, signal.SIGKILL)
    assert stage.database.read(all_work)[QUEUE] == Work(QUEUE, 1, busy)
    stage.open_gate()
    stage.start()
    eventually(lambda: settled(stage) == 2)


def test_a_beat_tells_what_is_new_and_of_slots(database: Database) -> None:
    identity = Identity("one", "consumer", ("data",), "1", "host", 1, None)
    pulse = Pulse(loads=(Load("data", 1, 2.0, slots=3),), work=(Work("data", 5, 0.25), Work("upkeep", 1, 0.5)))
    database.transact(lambda tx: beat(tx, identity, pulse))
    database.transact(lambda tx: beat(tx, identity, Pulse(work=(Work("data", 2, 0.25),))))
    assert database.read(list_instances)[0].loads == (Load("data", 1, 2.0, slots=3),)
    database.transact(lambda tx: leave(tx, "one", (Work("data", 1, 0.0),)))
    assert database.read(all_work) == {"data": Work("data", 8, 0.5), "upkeep": Work("upkeep", 1, 0.5)}


def test_many_add_at_the_same_time_and_nothing_is_lost(database: Database) -> None:
    def add(_number: int) -> None:
        database.transact(lambda tx: add_work(tx, [Work("upkeep", 1, 0.5), Work("data", 2, 0.25)]))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(40)))
    assert database.read(all_work) == {"data": Work("data", 80, 10.0), "upkeep": Work("upkeep", 40, 20.0)}


def test_little_is_not_lost_beside_much(database: Database) -> None:
    """A number of four bytes would not change any more."""
    database.transact(lambda tx: add_work(tx, [Work("data", 10**12, 1e9)]))
    database.transact(lambda tx: add_work(tx, [Work("data", 1, 0.001)]))
    whole = database.read(all_work)["data"]
    assert whole.settled == 10**12 + 1
    assert whole.busy_seconds == pytest.approx(1e9 + 0.001, abs=1e-5)
