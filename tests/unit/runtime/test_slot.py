"""What a slot does of a batch that its pool never ends. The pool is a stand-in: how real ones behave is in
tests/integration/test_consumer_slot.py."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import BadSettings
from pipeline.runtime import pool
from pipeline.runtime.execution import Report
from pipeline.runtime.heart import Page, Signs
from pipeline.runtime.pool import Slot
from pipeline.runtime.rounds import Failure, Group
from pipeline.runtime.spec import ConsumerSpec
from pipeline.runtime.worker import Recipe
from pipeline.runtime.workload import Workload
from pipeline.settings import Settings
from schemas.messages import JobsReceived

GROUP: Group = (b"one",)
SPEC = ConsumerSpec("optimisation", (JobsReceived,), lambda _context, _messages: [])


class StandIn:
    """A pool that takes groups, and leaves it to the test what comes of them."""

    active = True

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.groups: list[tuple[Group, Future[Report]]] = []
        self.ended = False

    def schedule(self, _function: object, args: tuple[Group], timeout: float) -> Future[Report]:
        assert timeout == self.recipe.deadline
        self.groups.append((args[0], Future()))
        return self.groups[-1][1]

    def beat(self, seconds_ago: float = 0.0) -> None:
        """Let the worker's page say that its heart beat then."""
        then = time.monotonic() - seconds_ago
        Page(self.recipe.page).write(Signs(then, then))

    def stop(self) -> None:
        self.ended = True

    def join(self) -> None:
        pass


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    made: list[StandIn] = []

    def make(initargs: tuple[Recipe], **_how: object) -> StandIn:
        made.append(StandIn(*initargs))
        return made[-1]

    monkeypatch.setattr(pool, "ProcessPool", make)
    monkeypatch.setattr(pool, "_MEND_AFTER", 0.0)
    return made


@pytest.fixture
def told() -> list[Slot]:
    return []


@pytest.fixture
def slot(tmp_path: Path, pools: list[StandIn], told: list[Slot]) -> Iterator[Slot]:
    del pools
    slot = Slot(Recipe(Settings(data_dir=tmp_path), SPEC.queue, "me", 30.0), SPEC, told.append)
    slot.run(GROUP)
    yield slot
    slot.join()


def test_a_batch_that_a_silent_worker_never_took_goes_to_another_one(
    slot: Slot, pools: list[StandIn], told: list[Slot]
) -> None:
    (_, first), *_ = pools[-1].groups
    slot.tend()
    assert pools[-2].ended
    assert [group for group, _ in pools[-1].groups] == [GROUP]
    first.set_result(Report(()))  # as the pool that was given up may still do
    assert slot.take() is None, "it is of no interest any more"
    (_, second) = pools[-1].groups[-1]
    second.set_result(Report((), retries=7))
    assert told == [slot, slot]
    report = slot.take()
    assert report is not None
    assert report.retries == 7
    assert slot.take() is None, "told twice"


def test_a_batch_waits_for_a_worker_that_beats_and_one_that_was_taken_for_its_deadline(
    slot: Slot, pools: list[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_MEND_AFTER", 20.0)
    pools[-1].beat()
    slot.tend()
    monkeypatch.setattr(pool, "_MEND_AFTER", 0.0)
    pools[-1].groups[-1][1].set_running_or_notify_cancel()
    slot.tend()
    assert not pools[-1].ended
    assert slot.busy


def test_a_batch_whose_deadline_the_pool_lets_pass_is_ended_without_it(
    slot: Slot, pools: list[StandIn], told: list[Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of day may be set back; the pool goes by it."""
    pools[-1].groups[-1][1].set_running_or_notify_cancel()
    monkeypatch.setattr(pool, "_POOL_GRACE", -30.0)
    slot.tend()
    assert pools[-2].ended
    assert told == [slot]
    report = slot.take()
    assert report is not None
    assert isinstance(report.results, Failure)
    assert report.results.kind == "deadline"
    assert not slot.busy


def test_a_full_disk_is_said_before_a_worker_is_started_and_none_is_left(
    tmp_path: Path, pools: list[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that ask for too much are refused as a whole: the loops before them go on."""

    def page(path: Path) -> Page:
        if pools:
            raise OSError(errno.ENOSPC, "No space left on device")
        return Page(path)

    monkeypatch.setattr(pool, "Page", page)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = Settings(data_dir=tmp_path, consumer_slots=2)
    with pytest.raises(BadSettings, match=r"TMPDIR: a worker's files find no room in .* No space left"):
        Workload(settings, SPEC, "me", lambda: datetime.now(UTC))
    assert [one.ended for one in pools] == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_begins_by_halves_is_ended(
    tmp_path: Path, pools: list[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(_pool: StandIn) -> bool:
        raise BrokenProcessPool from OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(StandIn, "active", property(begin))
    recipe = Recipe(Settings(data_dir=tmp_path), SPEC.queue, "me", 30.0)
    with pytest.raises(BadSettings, match=r"PENSTOCK_CONSUMER_SLOTS: .*temporarily unavailable"):
        Slot(recipe, SPEC, lambda _slot: None)
    assert pools[-1].ended
    assert not pools[-1].recipe.page.parent.exists()
