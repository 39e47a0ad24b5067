"""Rounds of site queues: what is refused, held, hanging or asked for, on real rows and batch systems of others."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from executors.pilots.port import BATCH_ENDED
from executors.pilots.rounds import Rounds
from executors.pilots.threads import Bounds
from pipeline.runtime.spec import Context
from pipeline.sandboxes import Sandboxes
from pipeline.settings import Settings
from pipeline.store import pilots as store
from pipeline.store import provisioning
from pipeline.store.database import Database
from pipeline.store.tables import enrolments, pilots, site_queues
from schemas.pilots import EnrolRequest, Node
from schemas.states import PilotState
from tests.outside.stage import OUTSIDE
from tests.site_queues import (
    FAILING,
    SLEEPING,
    declare_queues,
    open_local,
    pilot_rows,
    queue_rows,
    remove_local,
    request_pilots,
)
from tests.waiting import eventually

NODE = Node(host="node1", cores=1, memory=2048, disk=10_000)
SLOW = {"name": "q", "batch_system": "slow", "pilot": "sleeping"}


@pytest.fixture
def context(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.syspath_prepend(OUTSIDE)
    yield Context(Settings(data_dir=tmp_path, api_url="http://127.0.0.1:1"), database, "tester")
    (tmp_path / "gate").touch()
    remove_local(tmp_path)


def declare(context: Context, *queues: dict[str, Any]) -> list[int]:
    return declare_queues(context.database, context.settings.data_dir, *queues)


def carry_out(context: Context, queue_ids: list[int], rounds: Rounds | None = None) -> None:
    assert (rounds or Rounds()).carry_out(context, queue_ids) == []


def follow_until(context: Context, queue_ids: list[int], state: str, **values: object) -> None:
    """Rounds until the only pilot is so."""

    def check() -> bool:
        carry_out(context, queue_ids)
        (row,) = pilot_rows(context.database)
        return row.state == state and all(getattr(row, name) == value for name, value in values.items())

    eventually(check)


def states(context: Context) -> list[str]:
    return [row.state for row in pilot_rows(context.database)]


def change(context: Context, **values: Any) -> None:
    """As if so much time had passed, or somebody had asked."""
    context.database.transact(lambda tx: tx.run(update(pilots).values(**values)))


def run_on(context: Context, **values: Any) -> None:
    context.database.transact(lambda tx: tx.run(update(site_queues).values(**values)))


def local_folder(context: Context, tag: str) -> Path:
    return context.settings.data_dir / "local-batch" / "SITE.q" / tag


def stop(context: Context, tag: str) -> None:
    """As an administrator, all processes of a local pilot."""
    note = local_folder(context, tag) / "pid"
    leader = eventually(lambda: note.exists() and note.read_text().split()[0])
    os.killpg(int(leader), signal.SIGSTOP)


def test_a_batch_system_that_hangs_delays_nobody_and_its_queue_backs_off(context: Context, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    hanging = {**SLOW, "options": {"hangs": str(gate)}}
    ids = declare(context, hanging, {**SLOW, "name": "other"})
    request_pilots(context.database, ids)
    rounds = Rounds(Bounds(working=2, answer=0.5, patience=0.2))
    carry_out(context, ids, rounds)
    assert states(context) == ["requested", "submitted"]
    eventually(lambda: queue_rows(context.database)[0].backoff_until is not None)
    row = queue_rows(context.database)[0]
    assert (row.reason, row.lease_owner) == ("the batch system slow did not answer within 0.5 s", None)
    run_on(context, backoff_until=None)
    carry_out(context, ids, rounds)
    assert queue_rows(context.database)[0].lease_owner is None, "one thread hangs there already"


def test_what_comes_too_late_is_not_written(context: Context, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ids = declare(context, {**SLOW, "options": {"hangs": str(gate)}})
    request_pilots(context.database, ids, 2)
    rounds = Rounds(Bounds(working=1, hanging=0, answer=0.3, patience=0.1))
    carry_out(context, ids, rounds)
    eventually(lambda: queue_rows(context.database)[0].backoff_until is not None)
    before = (pilot_rows(context.database), queue_rows(context.database))
    gate.touch()
    eventually(lambda: f"pilots-{ids[0]}" not in {thread.name for thread in threading.enumerate()})
    assert (pilot_rows(context.database), queue_rows(context.database)) == before

    def submitted() -> bool:  # in a machine's worst moment a round takes longer than these bounds allow
        run_on(context, backoff_until=None)
        carry_out(context, ids, rounds)
        return set(states(context)) <= {"submitted", "queued"}

    eventually(submitted)


def test_tags_that_are_refused_are_tried_again_and_none_taken_is_trouble(context: Context) -> None:
    ids = declare(context, {**SLOW, "options": {"room": 2}})
    request_pilots(context.database, ids, 3)
    carry_out(context, ids)
    assert states(context) == ["submitted", "submitted", "requested"]
    declare(context, {**SLOW, "options": {"room": 0}})
    carry_out(context, ids)
    (row,) = queue_rows(context.database)
    assert (row.reason, row.failures, row.backoff_until is not None) == ("the queue is full", 1, True)
    declare(context, {**SLOW, "options": {"room": 2}})
    carry_out(context, ids)
    assert states(context) == ["queued", "queued", "requested"], "it is left alone for a while"
    run_on(context, backoff_until=None)
    carry_out(context, ids)
    assert states(context) == ["queued", "queued", "submitted"]


def test_whatever_a_batch_system_raises_is_the_trouble_of_its_queue(context: Context) -> None:
    ids = declare(context, {**SLOW, "options": {"raises": "no such place"}}, {**SLOW, "name": "other"})
    request_pilots(context.database, ids)
    carry_out(context, ids)
    assert queue_rows(context.database)[0].reason == "LookupError: no such place"
    assert states(context) == ["requested", "submitted"]


def test_a_delegated_proxy_bounds_the_life_of_a_pilot(context: Context) -> None:
    ends_at = context.database.now() + timedelta(hours=2)
    ids = declare(context, {**SLOW, "options": {"proxy_ends_at": ends_at.isoformat()}})
    (tag,) = request_pilots(context.database, ids)
    carry_out(context, ids)
    assert pilot_rows(context.database)[0].proxy_ends_at == ends_at
    secret = context.database.transact(lambda tx: store.new_secret(tx, ids[0], 1, uses=1, valid_for=60))
    request = EnrolRequest(protocol=1, secret=secret, tag=tag, version="1", node=NODE)
    context.database.transact(lambda tx: store.enrol(tx, request, margin=300.0))
    assert pilot_rows(context.database)[0].ends_at == ends_at - timedelta(seconds=300)


def test_held_pilots_say_why_are_released_and_in_the_end_removed(context: Context) -> None:
    ids = declare(context, SLEEPING)
    (tag,) = request_pilots(context.database, ids)
    carry_out(context, ids)
    stop(context, tag)
    follow_until(context, ids, "held")
    (row,) = pilot_rows(context.database)
    assert (row.state, row.reason) == ("held", "its processes are stopped (SIGSTOP)")
    carry_out(context, ids)
    assert pilot_rows(context.database)[0].releases == 0, "it waits for a minute at first"
    change(context, held_at=row.held_at - timedelta(seconds=61))
    carry_out(context, ids)
    assert pilot_rows(context.database)[0].releases == 1
    follow_until(context, ids, "queued")
    assert pilot_rows(context.database)[0].held_at is None
    stop(context, tag)
    follow_until(context, ids, "held")
    change(context, releases=10, held_at=row.held_at - timedelta(days=1))
    carry_out(context, ids)
    (row,) = pilot_rows(context.database)
    assert (row.remove_requested, row.reason) == (
        True,
        "released 10 times, and held again: its processes are stopped (SIGSTOP)",
    )
    assert "held pilots were given up" in queue_rows(context.database)[0].reason
    run_on(context, backoff_until=None)
    follow_until(context, ids, "removed")
    assert pilot_rows(context.database)[0].reason == row.reason


def test_a_release_counts_once_in_a_round_that_collects_outputs_too(context: Context) -> None:
    ids = declare(context, SLEEPING)
    (tag,) = request_pilots(context.database, ids)
    carry_out(context, ids)
    stop(context, tag)
    follow_until(context, ids, "held")
    now = context.database.now()
    change(context, held_at=now - timedelta(seconds=61), output_wanted_at=now)
    carry_out(context, ids)
    (row,) = pilot_rows(context.database)
    assert (row.releases, row.output_at is not None) == (1, True)


def test_what_a_failed_pilot_wrote_is_kept_and_the_batch_system_forgets_it(context: Context) -> None:
    ids = declare(context, FAILING)
    (tag,) = request_pilots(context.database, ids)
    carry_out(context, ids)
    follow_until(context, ids, "failed")
    (row,) = pilot_rows(context.database)
    assert (row.state, row.output_wanted_at, row.output_at is not None) == ("failed", None, True)
    sandboxes = Sandboxes(context.settings.resolved_sandbox_url())
    assert sandboxes.get_pilot_output("default", row.id) == ("", "it is broken\n")
    assert not local_folder(context, tag).exists()
    assert "1 pilots failed to start; the last one ended before it enrolled: exit code 3" in (
        queue_rows(context.database)[0].reason
    )


def test_a_queue_is_busy_while_somebody_waits_for_an_output(context: Context) -> None:
    ids = declare(context, FAILING)
    (tag,) = request_pilots(context.database, ids)
    carry_out(context, ids)
    ended = open_local(context.settings.data_dir)
    eventually(lambda: ended.poll([tag])[tag].state in BATCH_ENDED)
    now = context.database.now()
    change(context, state=PilotState.DONE, ended_at=now, output_wanted_at=now)
    assert context.database.read(provisioning.busy_queues) == ids
    carry_out(context, ids)
    assert context.database.read(provisioning.busy_queues) == []
    assert pilot_rows(context.database)[0].output_at is not None


def test_pilots_that_run_and_never_enrol_are_told_apart(context: Context) -> None:
    ids = declare(context, SLEEPING)
    request_pilots(context.database, ids)
    carry_out(context, ids)
    follow_until(context, ids, "queued")
    follow_until(context, ids, "queued", reason="runs, but has not enrolled yet")
    (row,) = pilot_rows(context.database)
    change(context, runs_since=row.runs_since - timedelta(seconds=601))
    carry_out(context, ids)
    assert pilot_rows(context.database)[0].reason == "runs for more than 600 s, but has not enrolled"
    (queue,) = queue_rows(context.database)
    assert queue.reason == "1 pilots start but never enrol: can the queue's nodes reach the API?"
    assert queue.failures == 1


def test_pilots_of_several_nodes_that_make_no_whole_batch_job_are_not_submitted(context: Context) -> None:
    ids = declare(context, {**SLOW, "nodes": 2})
    request_pilots(context.database, ids, 3)
    carry_out(context, ids)
    assert states(context) == ["submitted", "submitted", "removed"]
    uses = context.database.read(lambda tx: tx.rows(enrolments.select()))
    assert [row.uses_left for row in uses] == [2]
