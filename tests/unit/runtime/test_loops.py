"""A reload that the machine has no room for: nothing of it stays, and what served goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.runtime import loops, workload
from pipeline.runtime.loops import Loops
from pipeline.runtime.queue_consumer import QueueConsumer
from pipeline.runtime.spec import ConsumerSpec
from pipeline.runtime.workload import Workload
from pipeline.settings import Settings
from pipeline.store.database import Database
from schemas.messages import JobsReceived

SPECS = tuple(ConsumerSpec(queue, (JobsReceived,), lambda _context, _messages: []) for queue in ("one", "two"))


class StandIn:
    """A slot without a worker."""

    made: list[StandIn]
    most: int

    def __init__(self, *_how: object) -> None:
        if len(self.made) == self.most:
            raise OSError(24, "Too many open files")
        self.made.append(self)
        self.ended = False

    def stop(self) -> None:
        self.ended = True

    def join(self) -> None:
        assert self.ended

    def complaint(self) -> None:
        return None

    def tend(self) -> None:
        pass


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(StandIn, "made", [], raising=False)
    monkeypatch.setattr(StandIn, "most", 1000, raising=False)
    monkeypatch.setattr(workload, "Slot", StandIn)
    return StandIn


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, broker_url="memory://reload")


@pytest.fixture
def serving(settings: Settings, slots: type[StandIn]) -> Iterator[Loops]:
    del slots
    database = Database(settings.resolved_database_url())
    serving = Loops(SPECS, database, "me")
    serving.start(settings)
    yield serving
    serving.stop(10)
    assert not serving.tend()
    database.close()


def test_slots_that_were_opened_before_one_can_not_be_are_closed(settings: Settings, slots: type[StandIn]) -> None:
    slots.most = 3
    with pytest.raises(OSError, match="Too many"):
        Workload(settings.model_copy(update={"consumer_slots": 5}), SPECS[0], "me", lambda: datetime.now(UTC))
    assert [slot.ended for slot in slots.made] == [True] * 3


def test_a_queue_that_gets_no_slots_leaves_all_queues_as_they_are(
    serving: Loops, settings: Settings, slots: type[StandIn]
) -> None:
    slots.most = 2 + 3 + 1
    with pytest.raises(OSError, match="Too many"):
        serving.renew(settings.model_copy(update={"consumer_slots": 3}))
    assert [slot.ended for slot in slots.made] == [False] * 2 + [True] * 4
    assert serving.pulse().state == "running"


def test_a_loop_that_can_not_begin_leaves_all_queues_to_those_that_served(
    serving: Loops, settings: Settings, slots: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reluctant(QueueConsumer):
        def start(self) -> None:
            if self.queue == "two":
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(loops, "QueueConsumer", Reluctant)
    with pytest.raises(RuntimeError, match="can't start"):
        serving.renew(settings)
    assert serving.settling, "the one that has begun may have received something"
    while serving.settling:
        assert serving.tend()
    assert [slot.ended for slot in slots.made] == [False, False, True, True]
    assert (serving.pulse().state, serving.failed, serving.drained) == ("running", False, False)
    monkeypatch.setattr(loops, "QueueConsumer", QueueConsumer)
    serving.renew(settings)
    assert serving.pulse().state == "running"
