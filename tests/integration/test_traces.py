"""Traces of jobs that ended reach an OTLP receiver: each job once or again alike, whatever fails, none passed by."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from structlog.testing import capture_logs

from executors.upkeep import traces as duty
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import event_counts, job_commands, traces
from pipeline.store.database import Database, Transaction
from pipeline.store.job_commands import JobFilter
from pipeline.store.tables import campaigns, controls, job_events
from pipeline.store.tables import jobs as jobs_table
from pipeline.traces import ids
from schemas.pilots import Report
from schemas.states import JobState
from tests.counting import TRANSACTIONS, come_and_go, count
from tests.otlp import Receiver, running_receiver
from tests.pilot_rows import scene
from tests.servers import free_port
from tests.submitting import all_jobs, array, move, submit

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TO_DONE = (JobState.WAITING, JobState.MATCHED, JobState.RUNNING, JobState.COMPLETING, JobState.DONE)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


def context(database: Database, url: str, share: float = 1.0) -> Context:
    """An upkeep consumer's."""
    return Context(Settings(traces_url=url, traces_share=share), database, "test")


def send(database: Database, url: str, share: float = 1.0) -> list[Any]:
    """A tick, after the events were counted; what it logged."""
    count(database)
    with capture_logs() as lines:
        assert duty.send(context(database, url, share)) == []
    return lines


def begun(database: Database, jobs: int, url: str) -> list[int]:
    """Jobs of a system in which traces are on; their ids."""
    submitted = submit(database, {"name": "s", **array(jobs)})
    send(database, url)
    return [job.id for job in all_jobs(database, submitted.campaign_id)]


def finish(database: Database, job_ids: list[int]) -> None:
    """Take received jobs to done."""
    move(database, job_ids, *TO_DONE, autocluster_id=1)


def wait_over(database: Database) -> None:
    """Let the wait after a failure have passed."""
    long_ago = database.now() - timedelta(hours=2)
    database.transact(lambda tx: tx.run(update(controls).where(controls.c.name == traces.FAILED).values(at=long_ago)))


def test_every_attempt_of_a_job_is_in_its_trace_with_its_place_and_what_was_reported(
    database: Database, receiver: Receiver
) -> None:
    made = scene(database, 2)
    database.transact(lambda tx: tx.run(update(campaigns).values(trace=CALLER)))
    send(database, receiver.url)
    made.start()
    first, second = made.refs()
    failed = {"outcome": "payload_failed", "exit_code": 3, "reason": "exit code 3", "wall_time": 5, "cpu_time": 4}
    made.report(Report.model_validate({"job_id": first.job_id, "attempt": 1, **failed}))
    ended = [first.job_id, second.job_id]
    move(database, ended[1:], JobState.COMPLETING, JobState.DONE)
    if made.states()[0] == "received":
        move(database, ended[:1], JobState.KILLED)
    send(database, f"{receiver.url}/")
    assert receiver.paths == ["/v1/traces"]
    (row, other) = all_jobs_by_id(database)
    found = receiver.traces()
    assert set(found) == {ids.trace_id(job.id, job.created_at) for job in (row, other)}
    spans = found[ids.trace_id(row.id, row.created_at)]
    root = spans[0]
    assert (root.name, root.parent_id, root.links) == ("job", "", (tuple(CALLER.split("-")[1:3]),))
    assert root.attributes["penstock.job.id"] == row.id
    assert (root.attributes["penstock.step.name"], root.attributes["penstock.campaign.name"]) == ("s", "test")
    assert (root.attributes["penstock.vo"], root.resource["service.name"]) == ("default", "penstock")
    (attempt,) = (span for span in spans if span.name == "attempt")
    assert attempt.attributes == {
        "penstock.attempt": 1,
        "penstock.pilot.id": made.pilot_id,
        "penstock.site": "LOCAL",
        "penstock.site_queue": "local",
        "process.exit.code": 3,
        "penstock.wall_seconds": 5.0,
        "penstock.cpu_seconds": 4.0,
        "penstock.memory_mib": 0,
        "error.type": "payload_failed",
        "penstock.reason": attempt.error,
    }
    assert [span.error for span in found[ids.trace_id(other.id, other.created_at)]] == [None] * 7
    events = database.read(lambda tx: tx.rows(select(job_events.c.at).where(job_events.c.job_id == row.id)))
    assert root.start == min(nanoseconds(event.at) for event in events)
    assert root.end == max(nanoseconds(event.at) for event in events)


def nanoseconds(moment: datetime) -> int:
    """Since 1970, as OTLP has it."""
    return round(moment.timestamp() * 1_000_000) * 1_000


def all_jobs_by_id(database: Database) -> list[Any]:
    """The rows of all jobs."""
    return list(database.read(lambda tx: tx.rows(select(jobs_table).order_by(jobs_table.c.id))))


def test_a_retry_by_hand_goes_on_in_the_trace_of_the_first_end(database: Database, receiver: Receiver) -> None:
    (job_id,) = begun(database, 1, receiver.url)
    move(database, [job_id], JobState.FAILED)
    send(database, receiver.url)
    job_commands.retry(database, 1, JobFilter(), window=4, wake_after=30.0)
    finish(database, [job_id])
    send(database, receiver.url)
    (spans,) = receiver.traces().values()
    assert [span.name for span in spans if not span.parent_id] == ["job"]
    assert [span.parent_id for span in spans if span.name == "job again"] == [spans[0].id]
    assert receiver.repeated() == 0


def test_the_share_is_kept_and_what_ended_before_traces_were_on_is_left_alone(
    database: Database, receiver: Receiver
) -> None:
    before = submit(database, {"name": "s", **array(5)})
    finish(database, [job.id for job in all_jobs(database, before.campaign_id)])
    job_ids = begun(database, 200, receiver.url)
    finish(database, job_ids)
    send(database, receiver.url, share=0.2)
    rows = [row for row in all_jobs_by_id(database) if row.id in job_ids]
    chosen = {trace for row in rows if (trace := ids.shown(row.id, row.created_at, share=0.2))}
    assert set(receiver.traces()) == chosen
    assert 10 < len(chosen) < 80


def test_a_place_that_is_away_costs_a_line_and_is_tried_again_after_longer_and_longer(
    database: Database, receiver: Receiver
) -> None:
    job_ids = begun(database, 3, receiver.url)
    finish(database, job_ids)
    receiver.status = 400
    waits = []
    for _ in range(7):
        (line,) = send(database, receiver.url)
        assert (line["event"], line["log_level"]) == ("traces_not_sent", "warning")
        assert receiver.url in line["error"]
        assert "400" in line["error"]
        waits.append(line["again_in"])
        assert send(database, receiver.url) == []
        wait_over(database)
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    (line,) = send(database, f"http://127.0.0.1:{free_port()}")
    assert any(word in line["error"] for word in ("efused", "timeout")), line
    wait_over(database)
    receiver.status = 200
    assert send(database, receiver.url) == []
    assert (len(receiver.traces()), receiver.repeated()) == (3, 0)
    assert send(database, receiver.url) == []
    assert len(receiver.paths) == 8


def test_a_place_that_never_answers_is_left_before_other_ticks_have_to_wait(
    mariadb: Database, receiver: Receiver
) -> None:
    finish(mariadb, begun(mariadb, 1, receiver.url))
    over = threading.Event()
    receiver.before_answer = lambda: over.wait(60)
    try:
        (line,) = send(mariadb, receiver.url)
    finally:
        over.set()
    assert "timeout" in line["error"]
    wait_over(mariadb)
    assert send(mariadb, receiver.url) == []
    assert len(receiver.traces()) == 1


def test_what_could_not_be_sent_for_an_hour_is_given_up_and_said(database: Database, receiver: Receiver) -> None:
    job_ids = begun(database, 4, receiver.url)
    finish(database, job_ids)
    old = {"at": database.now() - timedelta(seconds=duty.OLDEST + 1)}
    database.transact(lambda tx: tx.run(update(job_events).where(job_events.c.job_id.in_(job_ids[:3])).values(**old)))
    receiver.status = 400
    given_up, refused = send(database, receiver.url)
    assert (given_up["event"], given_up["jobs"], refused["event"]) == ("traces_given_up", 3, "traces_not_sent")
    receiver.status = 200
    wait_over(database)
    assert send(database, receiver.url) == []
    assert len(receiver.traces()) == 1


def test_without_its_library_a_place_for_traces_is_a_line_in_the_log(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(database, begun(database, 1, receiver.url))
    monkeypatch.setitem(sys.modules, "pipeline.traces.otlp", None)
    (line,) = send(database, receiver.url)
    assert "pip install 'penstock[traces]'" in line["error"]


SENDER = """
import sys
from executors.upkeep import traces
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store.database import Database
traces.send(Context(Settings(traces_url=sys.argv[2], traces_share=1.0), Database(sys.argv[1]), "sender"))
"""


def test_who_is_killed_before_the_answer_leaves_what_is_sent_again_alike(
    database: Database, receiver: Receiver
) -> None:
    finish(database, begun(database, 3, receiver.url))
    count(database)
    with subprocess.Popen([sys.executable, "-c", SENDER, database.url, receiver.url]) as sender:
        receiver.before_answer = sender.kill
        assert sender.wait(60) == -signal.SIGKILL
    sent = list(receiver.spans)
    assert len(sent) > 0
    receiver.before_answer = lambda: None
    send(database, receiver.url)
    assert receiver.spans == sent * 2


def test_after_retention_ids_that_sqlite_gives_out_again_are_told(database: Database, receiver: Receiver) -> None:
    first = begun(database, 2, receiver.url)
    finish(database, first)
    send(database, receiver.url)

    def forget(tx: Transaction) -> None:
        event_counts.forget(tx, first)
        tx.run(job_events.delete().where(job_events.c.job_id.in_(first)))
        event_counts.retreat(tx)

    database.transact(forget)
    submitted = submit(database, {"name": "t", **array(2)})
    finish(database, [job.id for job in all_jobs(database, submitted.campaign_id)])
    send(database, receiver.url)
    assert len(receiver.traces()) == 4


def test_after_retention_traces_begin_with_what_happens_from_when_they_are_turned_on(
    database: Database, receiver: Receiver
) -> None:
    before = submit(database, {"name": "s", **array(5)})
    finish(database, [job.id for job in all_jobs(database, before.campaign_id)])
    count(database)
    database.transact(event_counts.retreat)
    job_ids = begun(database, 2, receiver.url)
    finish(database, job_ids)
    assert send(database, receiver.url) == []
    assert told(receiver) == set(job_ids)


def test_what_ended_while_traces_were_turned_off_for_long_is_not_looked_through(
    database: Database, receiver: Receiver
) -> None:
    begun(database, 1, receiver.url)
    meanwhile = submit(database, {"name": "s", **array(5)})
    finish(database, [job.id for job in all_jobs(database, meanwhile.campaign_id)])
    off_since = database.now() - timedelta(seconds=duty.OLDEST + 1)
    of_traces = update(controls).where(controls.c.name == event_counts.TRACED)
    database.transact(lambda tx: tx.run(of_traces.values(at=off_since)))
    job_ids = begun(database, 2, receiver.url)
    finish(database, job_ids)
    assert send(database, receiver.url) == []
    assert told(receiver) == set(job_ids)


def told(receiver: Receiver) -> set[str | int | float]:
    """The jobs whose traces have arrived."""
    return {span.attributes["penstock.job.id"] for span in receiver.spans if span.name == "job"}


def test_nothing_is_passed_by_while_transactions_of_every_length_come_and_go(
    mariadb: Database, receiver: Receiver, seed: int
) -> None:
    left = deque(begun(mariadb, 3 * TRANSACTIONS, receiver.url))

    def end_one(tx: Transaction, chance: random.Random) -> None:
        event = {"job_id": left.popleft(), "attempt": 0, "from_state": "received", "at": tx.now}
        state = "killed" if chance.random() < 0.8 else "held"
        tx.connection.execute(insert(job_events), [event | {"to_state": state}])

    come_and_go(mariadb, seed, end_one, also=lambda: duty.send(context(mariadb, receiver.url)))
    send(mariadb, receiver.url)
    ended = mariadb.read(lambda tx: tx.rows(select(job_events.c.job_id).where(job_events.c.to_state == "killed")))
    assert told(receiver) == {row.job_id for row in ended}
