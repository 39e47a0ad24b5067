"""A slot of the pool: when its worker is replaced, and what it says of what went wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest

from pipeline.runtime import pool
from pipeline.runtime.execution import Report
from pipeline.runtime.pool import Slot, start_fork_server
from pipeline.runtime.rounds import Failure
from pipeline.runtime.worker import Recipe
from pipeline.settings import Settings
from tests.outside.outside.rehearsal import LEDGER, REACHED, SPEC
from tests.outside.stage import OUTSIDE, rehearsal
from tests.waiting import eventually

SlotMaker = Callable[..., Slot]


@pytest.fixture
def finished() -> SimpleQueue[Slot]:
    return SimpleQueue()


@pytest.fixture
def make_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: SimpleQueue[Slot]) -> Iterator[SlotMaker]:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    start_fork_server([SPEC])
    slots: list[Slot] = []

    def make(deadline: float = 30.0, recycle_after: int = 1000) -> Slot:
        recipe = Recipe(Settings(data_dir=tmp_path), SPEC.queue, "me", deadline)
        slots.append(Slot(recipe, replace(SPEC, recycle_after=recycle_after), finished.put))
        return slots[-1]

    yield make
    for slot in slots:
        slot.join()


def pids(folder: Path) -> list[int]:
    """Of the workers that wrote the ledger's lines."""
    ledger = folder / LEDGER
    return [int(line.split()[0]) for line in ledger.read_text().splitlines()] if ledger.exists() else []


def run(slot: Slot, finished: SimpleQueue[Slot], fault: str | None = None) -> Report:
    """One group of one message; what came of it."""
    slot.run((rehearsal(1, faults={1: fault} if fault else {}).encode(),))
    report = None
    while report is None:
        report = finished.get(timeout=60).take()
    return report


def test_a_worker_is_replaced_after_so_many_batches(
    tmp_path: Path, make_slot: SlotMaker, finished: SimpleQueue[Slot]
) -> None:
    slot = make_slot(recycle_after=2)
    for _ in range(4):
        assert isinstance(run(slot, finished).results, tuple)
    first, second, third, fourth = pids(tmp_path)
    assert first == second != third == fourth


def test_a_worker_that_has_grown_too_large_is_replaced_between_batches(
    tmp_path: Path, make_slot: SlotMaker, finished: SimpleQueue[Slot]
) -> None:
    slot = make_slot()
    report = run(slot, finished, "grow")
    assert report.memory > 0.8 * SPEC.memory
    assert run(slot, finished).memory < 0.5 * SPEC.memory
    assert len(set(pids(tmp_path))) == 2


def test_an_idle_worker_s_death_costs_the_next_batch_nothing(
    tmp_path: Path, make_slot: SlotMaker, finished: SimpleQueue[Slot]
) -> None:
    slot = make_slot()
    run(slot, finished)
    (worker,) = pids(tmp_path)
    os.kill(worker, signal.SIGKILL)
    assert isinstance(run(slot, finished).results, tuple)
    assert not slot.busy


def test_a_batch_given_to_a_worker_that_was_stopped_while_idle_goes_to_another_one(
    tmp_path: Path, make_slot: SlotMaker, finished: SimpleQueue[Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never takes the batch, so that no deadline of it begins."""
    slot = make_slot()
    run(slot, finished)
    (stopped,) = pids(tmp_path)
    os.kill(stopped, signal.SIGSTOP)
    slot.run((rehearsal(1).encode(),))
    slot.tend()
    assert pids(tmp_path) == [stopped], "it is given time"
    monkeypatch.setattr(pool, "_MEND_AFTER", 5.0)

    def report() -> Report | None:
        slot.tend()
        return None if finished.empty() else finished.get().take()  # nothing of the try that was given up

    came = eventually(report)
    assert came is not None
    assert isinstance(came.results, tuple)
    assert len(set(pids(tmp_path))) == 2
    assert not slot.busy


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        ("segfault", "crashed", "worker crashed (signal 11)"),
        ("sleep", "deadline", "deadline of 0.5 s passed"),
        ("memory", "memory", "memory limit of 512 MiB reached"),
        ("raise", "raised", "LookupError('there is no such place')"),
    ],
)
def test_each_failure_is_named_and_leaves_a_traceback(
    make_slot: SlotMaker, finished: SimpleQueue[Slot], fault: str, kind: str, reason: str
) -> None:
    slot = make_slot(deadline=0.5 if fault == "sleep" else 30.0)
    failure = run(slot, finished, fault).results
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.reason) == (kind, reason)
    assert "rehearsal.py" in (failure.traceback or "")
    assert isinstance(run(slot, finished).results, tuple), "the slot serves on"


def test_an_overdue_slot_is_told_from_one_at_work(make_slot: SlotMaker, finished: SimpleQueue[Slot]) -> None:
    slot = make_slot()
    assert not slot.overdue(-30.0)
    slot.run((rehearsal(1, faults={1: "wait"}).encode(),))
    eventually(lambda: slot.overdue(-30.0))
    assert not slot.overdue(10.0)
    assert finished.empty()


def test_a_worker_that_gets_nowhere_is_told_from_one_that_takes_long(
    tmp_path: Path, make_slot: SlotMaker, finished: SimpleQueue[Slot]
) -> None:
    """An executor that waits for others, that computes, and that looks now and then is at work; whatever it does, a
    stopped worker does not answer."""
    at_work = {fault: make_slot() for fault in ("read", "spin", "wait")}
    locked, stopped, idle = make_slot(), make_slot(), make_slot()
    for slot in (stopped, idle):
        run(slot, finished)
    stopped.run((rehearsal(1, faults={1: "wait"}).encode(),))
    eventually((tmp_path / REACHED).exists)
    for pid in pids(tmp_path):
        os.kill(pid, signal.SIGSTOP)
    for fault, slot in {**at_work, "deadlock": locked}.items():
        slot.run((rehearsal(1, faults={1: fault}).encode(),))
    for slot, words in ((locked, "has not moved"), (stopped, "has not answered"), (idle, "has not answered")):
        assert words in str(eventually(partial(slot.complaint, 4.0)))
    assert {fault: slot.complaint(limit=4.0) for fault, slot in at_work.items()} == dict.fromkeys(at_work)
    assert locked.complaint() is None, "it takes longer until it says so"


def test_a_slot_that_was_stopped_starts_no_worker_for_what_it_is_given(
    tmp_path: Path, make_slot: SlotMaker, finished: SimpleQueue[Slot]
) -> None:
    """A loop that was left to itself, since the broker did not answer, may come back while its process ends."""
    slot = make_slot()
    slot.join()
    slot.run((rehearsal(1).encode(),))
    slot.tend()
    assert (slot.busy, finished.empty(), pids(tmp_path)) == (False, True, [])
