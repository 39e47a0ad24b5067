"""The consumer process at work: real Redis, real processes, an executor from an outside package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from pipeline.runtime.republication import requeue_dead
from pipeline.store.instances import drain_instance, drain_queue, pause, resume
from schemas.messages import Body, Message
from tests.outside.stage import QUEUE, Stage, StageMaker, end, rehearsal, stages
from tests.servers import RedisServer
from tests.waiting import best_of, eventually


@pytest.fixture
def make_stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[StageMaker]:
    redis_server.flush()
    with stages(tmp_path, redis_server.url + "?takeover=2") as make:
        yield make


def test_messages_are_executed_once_and_acknowledged(make_stage: StageMaker) -> None:
    stage = make_stage()
    stage.start()
    stage.publish(*(rehearsal(number) for number in range(1, 201)))
    stage.wait_for(range(1, 201))
    eventually(stage.empty)
    assert set(stage.executed().values()) == {1}


def test_follow_ups_are_published(make_stage: StageMaker) -> None:
    stage = make_stage()
    stage.start()
    stage.publish(rehearsal(1, faults={1: "follow"}))
    stage.wait_for([1, 1_000_001])


def test_an_idle_consumer_stops_within_a_second_of_sigterm(make_stage: StageMaker) -> None:
    stage = make_stage()
    numbers = count(1)

    def seconds_until_it_ends() -> float:
        process, number = stage.start(), next(numbers)
        stage.publish(rehearsal(number))
        stage.wait_for([number])
        eventually(stage.empty)
        began = time.monotonic()
        assert end(process) == 0
        taken = time.monotonic() - began
        assert stage.instances() == []
        return taken

    best_of(3, seconds_until_it_ends, bound=1.0)


def test_a_busy_consumer_finishes_what_is_in_flight_before_it_ends(make_stage: StageMaker) -> None:
    stage = make_stage()
    process = stage.start()
    stage.publish(rehearsal(1, 2, faults={2: "wait"}))
    eventually(stage.gate_reached)
    process.send_signal(signal.SIGTERM)
    eventually(lambda: [row.state for row in stage.instances()] == ["draining"])
    stage.open_gate()
    assert process.wait(10) == 0
    assert stage.executed() == {1: 1, 2: 1}
    assert stage.empty()


def test_a_group_signal_does_not_take_the_batch_in_flight_along(make_stage: StageMaker) -> None:
    stage = make_stage()
    process = stage.start()
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    for pid in [process.pid, *stage.workers_of(process)]:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: [row.state for row in stage.instances()] == ["draining"])
    stage.open_gate()
    assert process.wait(10) == 0
    assert stage.executed() == {1: 1}


def test_what_is_not_finished_by_the_drain_deadline_goes_to_another_consumer(make_stage: StageMaker) -> None:
    stage = make_stage(drain_deadline=0.5)
    process = stage.start()
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    assert end(process) == 0
    assert stage.executed() == {}
    stage.open_gate()
    stage.start()
    stage.wait_for([1])
    eventually(stage.empty)


def test_a_second_sigterm_ends_at_once(make_stage: StageMaker) -> None:
    stage = make_stage()
    process = stage.start()
    workers = stage.workers_of(process)
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    process.send_signal(signal.SIGTERM)
    eventually(lambda: [row.state for row in stage.instances()] == ["draining"])
    assert end(process, within=5.0) == 128 + signal.SIGTERM
    eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), within=5)


def test_the_worker_of_a_killed_consumer_ends_itself(make_stage: StageMaker) -> None:
    stage = make_stage()
    process = stage.start()
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    workers = stage.workers_of(process)
    assert workers
    assert end(process, signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), within=5)


def test_the_death_of_an_idle_worker_is_mended(make_stage: StageMaker) -> None:
    stage = make_stage()
    process = stage.start()
    stage.publish(rehearsal(1))
    stage.wait_for([1])
    eventually(stage.empty)
    (worker,) = stage.workers_of(process)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: stage.workers_of(process) not in ([], [worker]))
    stage.publish(rehearsal(2))
    stage.wait_for([2])
    assert stage.dead() == []


def test_disasters_become_dead_letters_and_their_neighbours_are_executed_once(make_stage: StageMaker) -> None:
    stage = make_stage(message_attempts=2, executor_deadline=2.0, wake_after=0.1, consumer_slots=2)
    good = [rehearsal(number) for number in range(1, 101)]
    poisonous = rehearsal(*range(1001, 2001), faults={1500: "raise"})
    bad = [rehearsal(n, faults={n: fault}) for n, fault in ((201, "segfault"), (202, "sleep"), (203, "memory"))]
    stage.publish(*good[:30], bad[0], *good[30:50], poisonous, *good[50:70], bad[1], *good[70:], bad[2])
    stage.start()
    eventually(lambda: stage.upkeep() and len(stage.dead()) == 4, within=90)
    deaths = stage.dead()
    neighbours = {*range(1, 101), *range(1001, 2001)} - {1500}
    stage.wait_for(sorted(neighbours))
    assert stage.executed() == dict.fromkeys(neighbours, 1)
    reasons = {json.loads(letter.payload)["body"]["job_ids"][0]: letter.reason for letter in deaths}
    assert reasons == {
        201: "worker crashed (signal 11)",
        202: "deadline of 2 s passed",
        203: "memory limit of 512 MiB reached",
        1500: "LookupError('there is no such place')",
    }
    assert all(letter.attempts == 2 and letter.traceback for letter in deaths)
    requeue_dead(stage.settings, stage.database, stage.transport, [letter.id for letter in deaths])
    assert stage.dead() == []
    eventually(lambda: stage.upkeep() and len(stage.dead()) == 4, within=60)


def test_a_failed_batch_is_told_of_with_the_messages_and_the_trace_that_were_in_it(make_stage: StageMaker) -> None:
    stage = make_stage(message_attempts=1, consumer_slots=1)
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    messages = [rehearsal(number, faults={12: "segfault"} if number == 12 else {}) for number in range(1, 13)]
    stage.publish(*(message.model_copy(update={"trace": trace}) for message in messages))
    stage.start()
    eventually(stage.dead)
    lines = [json.loads(line) for line in stage.log.read_text().splitlines() if '"batch_failed"' in line]
    first, last = lines[0], lines[-1]
    assert first["labels"]["message_ids"] == [str(message.id) for message in messages[:10]]
    assert [line["labels"]["messages"] for line in lines] == [12, 6, 3, 2, 1]
    assert last["labels"]["message_id"] == last["transaction.id"] == str(messages[-1].id)
    assert {line["trace.id"] for line in lines} == {"a" * 32}


def test_a_message_that_kills_its_consumer_becomes_a_dead_letter(make_stage: StageMaker) -> None:
    stage = make_stage(message_attempts=1)
    good = [rehearsal(number) for number in range(1, 51)]
    stage.publish(*good[:25], rehearsal(66, faults={66: "kill"}), *good[25:])
    kills = 0
    for _ in range(4):
        process = stage.start()
        eventually(partial(_is_over, process, stage), within=30)
        kills += process.poll() is not None
        if stage.dead():
            break
    (letter,) = stage.dead()
    assert letter.reason == f"killed its consumer {kills} times"
    stage.wait_for(range(1, 51))
    assert stage.executed() == dict.fromkeys(range(1, 51), 1)
    eventually(stage.empty)


def test_what_an_executor_says_is_done(make_stage: StageMaker) -> None:
    stage = make_stage()
    stage.start()
    stage.publish(rehearsal(1, faults={1: "dead"}), rehearsal(2, faults={2: "retry"}), rehearsal(3))
    stage.wait_for([3])
    (letter,) = eventually(stage.dead)
    assert letter.reason == "said to be hopeless"
    eventually(lambda: stage.deferred() == 1)
    eventually(stage.empty)


def test_a_message_of_an_unknown_type_becomes_a_dead_letter_at_once(make_stage: StageMaker) -> None:
    stage = make_stage()
    stage.start()
    stage.publish(stranger := Message.about(Stranger(), now=datetime.now(UTC)), rehearsal(1))
    stage.wait_for([1])
    (letter,) = eventually(stage.dead)
    assert letter.type == "Stranger"
    assert letter.payload == stranger.encode()
    assert "unknown message type 'Stranger'" in letter.reason
    eventually(stage.empty)


def test_what_is_down_outside_takes_no_attempt(make_stage: StageMaker) -> None:
    stage = make_stage(message_attempts=1)
    stage.start()
    stage.publish(rehearsal(1, faults={1: "outside"}))
    eventually(lambda: stage.deferred() == 1)
    eventually(stage.empty)
    assert stage.dead() == []


def test_a_paused_queue_waits_until_it_is_resumed(make_stage: StageMaker) -> None:
    stage = make_stage()
    stage.start()
    stage.database.transact(lambda tx: pause(tx, QUEUE, "an operator"))
    eventually(lambda: [row.state for row in stage.instances()] == ["paused"], within=4)
    stage.publish(rehearsal(1))
    assert not stage.empty()
    stage.database.transact(lambda tx: resume(tx, QUEUE))
    stage.wait_for([1], within=5)


def test_drained_consumers_end_and_later_ones_serve(make_stage: StageMaker) -> None:
    stage = make_stage()
    first, second = stage.start(), stage.start()
    row = next(row for row in stage.instances() if row.pid == first.pid)
    stage.database.transact(lambda tx: drain_instance(tx, row.id))
    assert first.wait(5) == 0
    assert second.poll() is None
    stage.database.transact(lambda tx: drain_queue(tx, QUEUE, "an operator"))
    assert second.wait(5) == 0
    stage.start()
    stage.publish(rehearsal(1))
    stage.wait_for([1])


def test_a_queues_drain_ends_those_that_serve_others_too(make_stage: StageMaker) -> None:
    """Else nobody would start anything that serves it again. What they have of it is finished first."""
    stage = make_stage()
    both = stage.start("data")
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    stage.database.transact(lambda tx: drain_queue(tx, QUEUE, "an operator"))
    assert both.poll() is None
    stage.open_gate()
    assert both.wait(5) == 0
    assert stage.executed() == {1: 1}
    stage.start("data")
    stage.publish(rehearsal(2))
    stage.wait_for([2])


def test_health_and_metrics_are_served(make_stage: StageMaker) -> None:
    stage = make_stage()
    stage.start()
    (row,) = stage.instances()
    assert row.version
    assert row.kind == "consumer"
    stage.publish(rehearsal(1))
    stage.wait_for([1])
    eventually(lambda: _get(f"{row.health_url}/readyz")[0] == 200)
    assert _get(f"{row.health_url}/livez") == (200, '{"status": "pass", "complaints": []}')
    counted = 'penstock_messages_total{outcome="done",queue="rehearsal"} 1.0'
    eventually(lambda: counted in _get(f"{row.health_url}/metrics")[1])


class Stranger(Body):
    """A body that travels on the queue though its consumer does not know it."""

    queue: ClassVar[str] = QUEUE


def _is_over(process: subprocess.Popen[bytes], stage: Stage) -> bool:
    """Whether the consumer has died or the message is buried."""
    return process.poll() is not None or bool(stage.dead())


def _get(url: str) -> tuple[int, str]:
    reply = httpx.get(url, timeout=5)
    return reply.status_code, reply.text
