"""SIGHUP at a real consumer while messages flow: new settings are taken on as a whole, and no message notices."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from pipeline.reload import QUIET
from pipeline.store.instances import pause, resume
from tests.outside.stage import QUEUE, Stage, StageMaker, rehearsal, stages
from tests.servers import RedisServer
from tests.waiting import eventually

MESSAGES = 1_500
BURSTS = 20
SIGNALS = 10
"""Of each burst."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The settings file of the consumers."""
    path = tmp_path / "penstock.env"
    path.write_text("PENSTOCK_CONSUMER_SLOTS=1\n")
    return path


@pytest.fixture(params=["redis", "amqp"])
def make_any_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StageMaker]:
    """On the broker that moves messages to us, and on the one that sends them ahead."""
    server = request.getfixturevalue("redis_server" if request.param == "redis" else "rabbitmq_server")
    if request.param == "redis":
        server.flush()
    with stages(tmp_path, server.url if request.param == "redis" else server.counting_amqp_url) as make:
        yield make


@pytest.fixture
def make_stage(tmp_path: Path, redis_server: RedisServer) -> Iterator[StageMaker]:
    redis_server.flush()
    with stages(tmp_path, redis_server.url) as make:
        yield make


def said(stage: Stage, event: str) -> list[str]:
    """The lines of the log with an event."""
    return [line for line in stage.log.read_text().splitlines() if f'"{event}"' in line]


def slots(stage: Stage) -> list[int | None]:
    """How many each process says that it has."""
    return [load.slots for row in stage.instances() for load in row.loads]


def reload(stage: Stage, process: subprocess.Popen[bytes], file: Path, text: str) -> None:
    """Write the file, signal, and wait until the process has dealt with it."""
    dealt = len(said(stage, "settings_reloaded")) + len(said(stage, "settings_refused"))
    file.write_text(text)
    process.send_signal(signal.SIGHUP)
    eventually(lambda: len(said(stage, "settings_reloaded")) + len(said(stage, "settings_refused")) > dealt)


@pytest.mark.timeout(180)
def test_two_hundred_signals_lose_and_double_nothing(make_any_stage: StageMaker, file: Path) -> None:
    stage = make_any_stage(settings_file=file)
    process = stage.start()
    share = MESSAGES // BURSTS
    for burst in range(BURSTS):
        first = burst * share + 1
        stage.publish(*(rehearsal(number) for number in range(first, first + share)))
        valid = f"PENSTOCK_CONSUMER_SLOTS={1 + burst % 2}\n"
        file.write_text("PENSTOCK_CONSUMER_SLOTS=none\n" if burst == BURSTS // 2 else valid)
        for _ in range(SIGNALS):
            process.send_signal(signal.SIGHUP)
        Event().wait(QUIET * 1.5 if burst % 4 == 2 else QUIET / 5)  # some bursts run into each other, some are apart
    stage.wait_for(range(1, MESSAGES + 1))
    eventually(lambda: slots(stage) == [2])
    eventually(stage.empty)
    assert set(stage.executed().values()) == {1}
    assert sum(stage.executed().values()) == MESSAGES
    assert (stage.deferred(), stage.dead()) == (0, [])
    assert 1 <= len(said(stage, "settings_reloaded")) < BURSTS
    assert "PENSTOCK_CONSUMER_SLOTS" in said(stage, "settings_refused")[0]
    assert process.poll() is None


def test_a_successor_receives_while_the_loop_before_it_settles_what_it_has(make_stage: StageMaker, file: Path) -> None:
    stage = make_stage(settings_file=file)
    process = stage.start()
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    reload(stage, process, file, "PENSTOCK_CONSUMER_SLOTS=2\n")
    stage.publish(rehearsal(2))
    stage.wait_for([2])
    assert stage.executed() == {2: 1}
    # a third generation waits until the first has ended: processes do not pile up
    file.write_text("PENSTOCK_CONSUMER_SLOTS=3\n")
    process.send_signal(signal.SIGHUP)
    eventually(lambda: slots(stage) == [2])
    Event().wait(3 * QUIET)
    assert len(stage.workers_of(process)) == 1 + 2
    stage.open_gate()
    stage.wait_for([1, 2])
    eventually(lambda: slots(stage) == [3])
    eventually(lambda: len(stage.workers_of(process)) == 3)
    assert stage.executed() == {1: 1, 2: 1}
    (row,) = stage.instances()
    assert (row.state, row.in_flight) == ("running", 0)


def test_what_would_hold_up_a_reload_goes_on_elsewhere_at_the_drain_deadline(
    make_stage: StageMaker, file: Path
) -> None:
    file.write_text("PENSTOCK_DRAIN_DEADLINE=1\n")
    stage = make_stage(settings_file=file)
    process = stage.start()
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    reload(stage, process, file, "PENSTOCK_CONSUMER_SLOTS=2\n")
    reload(stage, process, file, "PENSTOCK_CONSUMER_SLOTS=3\n")
    stage.open_gate()
    stage.wait_for([1])
    assert "batches_given_up" in stage.log.read_text()
    eventually(stage.empty)


def test_a_reload_takes_nothing_in_flight_along_where_the_whole_group_is_signalled(
    make_stage: StageMaker, file: Path
) -> None:
    stage = make_stage(settings_file=file)
    process = stage.start()
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    for pid in stage.workers_of(process):
        os.kill(pid, signal.SIGHUP)
    reload(stage, process, file, "PENSTOCK_CONSUMER_SLOTS=2\n")
    stage.open_gate()
    stage.wait_for([1])
    eventually(stage.empty)
    assert stage.executed() == {1: 1}


def test_sighup_during_a_stop_does_nothing(make_stage: StageMaker, file: Path) -> None:
    stage = make_stage(settings_file=file)
    process = stage.start()
    stage.publish(rehearsal(1, faults={1: "wait"}))
    eventually(stage.gate_reached)
    process.send_signal(signal.SIGTERM)
    eventually(lambda: [row.state for row in stage.instances()] == ["draining"])
    file.write_text("PENSTOCK_CONSUMER_SLOTS=2\n")
    process.send_signal(signal.SIGHUP)
    Event().wait(2 * QUIET)
    stage.open_gate()
    assert process.wait(20) == 0
    assert said(stage, "settings_reloaded") == []
    assert stage.executed() == {1: 1}


def test_a_paused_queue_stays_paused(make_stage: StageMaker, file: Path) -> None:
    stage = make_stage(settings_file=file)
    process = stage.start()
    stage.database.transact(lambda tx: pause(tx, QUEUE, "ada"))
    eventually(lambda: [row.state for row in stage.instances()] == ["paused"])
    stage.publish(rehearsal(1))
    reload(stage, process, file, "PENSTOCK_CONSUMER_SLOTS=2\n")
    eventually(lambda: slots(stage) == [2])
    assert stage.executed() == {}
    stage.database.transact(lambda tx: resume(tx, QUEUE))
    stage.wait_for([1])


def test_what_only_a_restart_changes_is_named_and_the_rest_is_taken_on(make_stage: StageMaker, file: Path) -> None:
    stage = make_stage(settings_file=file)
    process = stage.start()
    reload(stage, process, file, "PENSTOCK_HEALTH_PORT=1\nPENSTOCK_CONSUMER_SLOTS=2\nPENSTOCK_LOG_LEVEL=debug\n")
    (line,) = said(stage, "settings_reloaded")
    assert '"changed": "PENSTOCK_CONSUMER_SLOTS PENSTOCK_LOG_LEVEL"' in line
    eventually(lambda: said(stage, "needs_restart"))
    assert '"settings": "PENSTOCK_HEALTH_PORT"' in said(stage, "needs_restart")[0]


WRONG = {
    "PENSTOCK_CONSUMER_SLOT=2": "line 2: there is no setting PENSTOCK_CONSUMER_SLOT",
    'PENSTOCK_OPTIMISERS=["sanity", "nobody"]': "PENSTOCK_OPTIMISERS: no optimiser is named 'nobody'",
    'PENSTOCK_DEMAND_SOURCES=["nobody"]': "PENSTOCK_DEMAND_SOURCES: no demand source is named 'nobody'",
    'PENSTOCK_SCHEDULES={"nothing": "* * * * *"}': "PENSTOCK_SCHEDULES names 'nothing'",
    'PENSTOCK_SCHEDULES={"reconcile": "often"}': "'often' is no cron expression",
    'PENSTOCK_LEAST_WORKERS={"nowhere": 1}': "there is no queue 'nowhere'",
    "PENSTOCK_SANDBOX_URL=s4://x": "PENSTOCK_SANDBOX_URL: 's4://x'",
    "PENSTOCK_API_URL=nonsense": "PENSTOCK_API_URL: 'nonsense' is no address",
}


def test_invalid_settings_change_nothing_at_all(make_stage: StageMaker, file: Path) -> None:
    stage = make_stage(settings_file=file)
    process = stage.start()
    for line, told in WRONG.items():
        reload(stage, process, file, f"PENSTOCK_CONSUMER_SLOTS=5\n{line}\n")
        assert told in said(stage, "settings_refused")[-1]
    assert said(stage, "settings_reloaded") == []
    assert slots(stage) == [1]


def test_more_slots_than_the_process_may_open_files_for_cost_nothing(make_stage: StageMaker, file: Path) -> None:
    stage = make_stage(settings_file=file)
    process = stage.start()
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (128, 128))
    reload(stage, process, file, "PENSTOCK_CONSUMER_SLOTS=64\n")
    assert "Too many open files" in said(stage, "settings_refused")[-1]
    eventually(lambda: len(stage.workers_of(process)) == 1)
    stage.publish(rehearsal(1))
    stage.wait_for([1])
    reload(stage, process, file, "PENSTOCK_CONSUMER_SLOTS=2\n")
    assert len(said(stage, "settings_reloaded")) == 1
    eventually(lambda: slots(stage) == [2])
    stage.publish(rehearsal(2))
    stage.wait_for([1, 2])
    assert stage.executed() == {1: 1, 2: 1}
