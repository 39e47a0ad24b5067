"""The batches of one queue between their receipt and their settlement: waiting, running in a slot, finished."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from queue import Empty, SimpleQueue

from structlog import get_logger

from pipeline.metrics import BATCH_FAILURES, BATCH_MESSAGES, BATCH_SECONDS, DATABASE_RETRIES, OLDEST_AGE
from pipeline.runtime.execution import Report, ids_of, reader
from pipeline.runtime.pool import Slot
from pipeline.runtime.rounds import Failure, Group, Round
from pipeline.runtime.settlement import Batch
from pipeline.runtime.spec import ConsumerSpec
from pipeline.runtime.verdicts import digest_of
from pipeline.runtime.worker import Recipe
from pipeline.settings import Settings
from pipeline.tally import carry
from pipeline.transport.port import Delivery
from schemas.messages import Message

_log = get_logger("runtime")


class Workload:
    """For the loop's thread alone, except for `wake`, `in_flight`, `oldest_age`, `busy_seconds` and `stuck`."""

    def __init__(self, settings: Settings, spec: ConsumerSpec, instance: str, clock: Callable[[], datetime]) -> None:
        """`clock` is the database's, by which messages say when they were made.

        Raises BadSettings when there is no room for the workers' files: then no worker is left.
        """
        self._clock = clock
        self.queue = spec.queue
        self._none_before: datetime | None = None
        """No message that waits in the queue is older: it was found empty then, or one of then has been executed."""
        self.finished: list[Batch] = []
        """Their rounds are over; the loop settles and removes them."""
        self.busy_seconds = 0.0
        """Seconds of slots that work took; not what failed, nor what was waited for that is down: no more slots would
        help there."""
        self._read = reader(spec)
        deadline = settings.executor_deadline or spec.deadline
        self._events: SimpleQueue[Slot | None] = SimpleQueue()
        self._waiting: deque[Batch] = deque()
        self._running: dict[Slot, Batch] = {}
        recipe = Recipe(settings, spec.queue, instance, deadline)
        self._slots: list[Slot] = []
        try:
            for _ in range(settings.consumer_slots):
                self._slots.append(Slot(recipe, spec, self._events.put))
        except Exception:
            self.close()  # a reload that asks for more than the machine gives must cost nothing
            raise

    @property
    def room(self) -> bool:
        """Whether there is room for another batch: at most two per slot are in flight, one of them running."""
        return len(self._waiting) + len(self._running) + len(self.finished) < 2 * len(self._slots)

    @property
    def in_flight(self) -> int:
        """Messages received and not settled."""
        batches = [*self._waiting, *list(self._running.values()), *self.finished]
        return sum(len(batch.deliveries) for batch in batches)

    @property
    def oldest_age(self) -> float | None:
        """No message that waits in the queue is older than this, in seconds; None before anything was seen."""
        since = self._none_before
        return None if since is None else max(0.0, (self._clock() - since).total_seconds())

    def found_empty(self) -> None:
        """There was nothing to receive."""
        self._none_before = self._clock()

    def stuck(self) -> list[str]:
        """Why the pool makes no progress; empty when it does."""
        complaints = [complaint for slot in self._slots if (complaint := slot.complaint()) is not None]
        return [f"queue {self.queue}: {complaint}" for complaint in complaints]

    def wake(self) -> None:
        """Let `wait` return."""
        self._events.put(None)

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries on: those that came again one by one, since one of them may have ended its consumer."""
        fresh = [delivery for delivery in deliveries if not delivery.redelivered]
        if fresh:
            BATCH_MESSAGES.labels(self.queue).observe(len(fresh))
            self._waiting.append(Batch(fresh, Round([delivery.payload for delivery in fresh], self._read)))
        for delivery in deliveries:
            if delivery.redelivered:
                batch = Batch([delivery], Round([delivery.payload], self._read), self._id_of(delivery))
                self._waiting.append(batch)

    def start(self, admit: Callable[[Batch], bool]) -> None:
        """Give waiting batches to free slots, in order.

        One that came again runs while nothing else does, and when `admit` lets it; `admit` may finish its round.
        """
        for slot in self._slots:
            if not self._waiting or slot.busy:
                continue
            batch = self._waiting[0]
            if batch.came_again is None:
                if any(other.came_again for other in self._running.values()):
                    return
            elif self._running or self.finished or not (batch.overdue(time.monotonic()) or admit(batch)):
                return
            self._proceed(slot, self._waiting.popleft())

    def wait(self, seconds: float) -> None:
        """Take what slots have finished; waits for a first one."""
        try:
            self._take(self._events.get(timeout=seconds) if seconds > 0 else self._events.get_nowait())
            while True:
                self._take(self._events.get_nowait())
        except Empty:
            for slot in self._slots:
                slot.tend()

    def close(self) -> None:
        """Kill what runs; returns when the workers are gone."""
        for slot in self._slots:
            slot.stop()
        for slot in self._slots:
            slot.join()

    def _take(self, slot: Slot | None) -> None:
        if slot is None:
            return
        seconds = slot.seconds()
        report = slot.take()
        if report is None:
            return
        BATCH_SECONDS.labels(self.queue).observe(seconds)
        DATABASE_RETRIES.inc(report.retries)
        carry(report.counted)
        self.busy_seconds += max(0.0, seconds - report.waited) * report.own_share
        batch = self._running[slot]
        self._note(batch, report)
        self._proceed(slot, batch)

    def _proceed(self, slot: Slot, batch: Batch) -> None:
        group = batch.next(time.monotonic())
        if group is None:
            self._running.pop(slot, None)
            self.finished.append(batch)
        else:
            self._running[slot] = batch
            slot.run(group)

    def _note(self, batch: Batch, report: Report) -> None:
        if report.oldest is not None:
            OLDEST_AGE.labels(self.queue).set(max(0.0, (self._clock() - report.oldest).total_seconds()))
            self._none_before = max(report.oldest, self._none_before or report.oldest)
        if isinstance(report.results, Failure):
            BATCH_FAILURES.labels(self.queue, report.results.kind).inc()
            self._tell(report.results, batch.round.running or ())
            batch.round.failed(report.results)
        else:
            batch.round.succeeded(report.results)

    def _tell(self, failure: Failure, group: Group) -> None:
        about = ids_of(message for payload in group if (message := self._message(payload)) is not None)
        said = {"kind": failure.kind, "reason": failure.reason, "messages": len(group)}
        _log.warning("batch_failed", queue=self.queue, **said, **about)

    def _message(self, payload: bytes) -> Message | None:
        try:
            return self._read(payload)
        except ValueError:
            return None

    def _id_of(self, delivery: Delivery) -> str:
        message = self._message(delivery.payload)
        return digest_of(delivery.payload) if message is None else str(message.id)
