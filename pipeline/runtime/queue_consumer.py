"""The loop of one queue: receive batches, keep the slots busy, settle what is finished. One thread, one transport."""

from __future__ import annotations

import math
import time
from threading import Thread

from structlog import get_logger

from pipeline.errors import BrokerUnavailable, DatabaseUnavailable
from pipeline.metrics import BROKER_LOST, IN_FLIGHT, REDELIVERIES
from pipeline.runtime.execution import reader
from pipeline.runtime.outage import Outage
from pipeline.runtime.settlement import Batch, Settlement
from pipeline.runtime.spec import ConsumerSpec
from pipeline.runtime.workload import Workload
from pipeline.settings import Settings
from pipeline.store.database import Database
from pipeline.store.instances import Load, Pulse, Wish
from pipeline.store.messages import count_redelivery
from pipeline.store.queue_sizes import Work
from pipeline.transport.port import Transport, open_transport
from pipeline.turns import BROKER, DATABASE, Turns
from schemas.outcomes import Dead

RECEIVE_WAIT = 0.15
"""Seconds that an idle loop waits in the broker, or for a slot; a stop is seen no later."""
_LEAST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
"""Seconds between two looks at the queue while a batch runs."""
_HANG = 0.3
"""Seconds that a loop which has nothing left to do but to end may wait for the broker or the database."""
_LOOKS = 2
"""Looks in a row that find nothing until a queue counts as empty: what a broker sends ahead needs a moment."""

_log = get_logger("runtime")


class QueueConsumer:
    """Serves one queue from `start` until `stop`, and until whatever is in flight then is finished."""

    def __init__(
        self, settings: Settings, spec: ConsumerSpec, database: Database, instance: str, *, generation: int = 0
    ) -> None:
        """`generation` tells the loops of a process and a queue apart: one may still settle what the next does not."""
        self.queue = spec.queue
        self.failed = False
        """Whether the loop ended by an error of its own."""
        self._settings = settings
        self._spec = spec
        self._database = database
        self._name = f"{instance}-{spec.queue}" + (f"-{generation}" if generation else "")
        self._workload = Workload(settings, spec, instance, database.clock)
        self._settlement = Settlement(settings, spec, reader(spec))
        self._broker_outage = Outage("broker", spec.queue)
        self._database_outage = Outage("database", spec.queue)
        self._pause = _LEAST_PAUSE
        self._paused = False
        self._stop_by: float | None = None
        self._turns = Turns()
        self._left = False
        self._empty_looks = 0
        self._settled = 0
        self._thread = Thread(target=self._run, name=f"consumer-{spec.queue}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def abandon(self) -> None:
        """Part with it before it has begun; returns when its workers are gone."""
        self._workload.close()

    def stop(self) -> None:
        """Receive no more; end when what is in flight is finished, or at the drain deadline. May be called twice."""
        if self._stop_by is None or self._stop_by == math.inf:
            self._stop_by = time.monotonic() + self._settings.drain_deadline
            self._workload.wake()

    def retire(self) -> None:
        """Receive no more; end when what is in flight is finished. Nobody waits for that: `stop` sets a deadline."""
        if self._stop_by is None:
            self._stop_by = math.inf
            self._workload.wake()

    def obey(self, wish: Wish | None) -> None:
        """Do what an operator wishes of this queue; None: carry on."""
        if wish is Wish.DRAIN:
            self.stop()
        if self._paused != (wish is Wish.PAUSE):
            self._paused = wish is Wish.PAUSE
            _log.info("queue_paused" if self._paused else "queue_resumed", queue=self.queue)

    @property
    def receives(self) -> bool:
        """Whether it goes on receiving, unless it is paused: neither has it ended, nor shall it."""
        return self.alive and self._stop_by is None

    @property
    def paused(self) -> bool:
        """Whether an operator wishes that it receive nothing for now."""
        return self._paused

    @property
    def alive(self) -> bool:
        """Whether the loop runs."""
        return self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for so many seconds at most."""
        self._thread.join(timeout)

    def leave(self) -> bool:
        """Leave a loop to itself that shall end and waits for a broker or database that does not answer.

        Whether it was left: then its workers are gone, and the process may end. What it had goes to others.
        """
        hangs = (self._turns.seconds_outside or 0.0) > _HANG
        if not hangs or self._stop_by is None or (self._workload.in_flight and time.monotonic() < self._stop_by):
            return False
        self._left = True
        self._say_given_up()
        self._workload.close()
        return True

    def pulse(self) -> Pulse:
        """What to say of it; without the broker, nothing of how old the messages are that wait there."""
        state = "draining" if self._stop_by is not None else "paused" if self._paused else "running"
        seen = None if self._broker_outage.lasts else self._workload.oldest_age
        load = Load(self.queue, self._workload.in_flight, seen, self._settings.consumer_slots)
        return Pulse(load.in_flight, load.oldest_age, state, (load,))

    @property
    def work(self) -> Work:
        """What it has done so far."""
        return Work(self.queue, self._settled, self._workload.busy_seconds)

    def stuck(self) -> list[str]:
        """Why it makes no progress. An outage is no reason: the loop turns while it waits for the end of it."""
        still = self._turns.seconds_still if self.alive and not self._left else None
        complaints = [] if still is None else [f"queue {self.queue}: the loop has not turned for {still:.0f} s"]
        return complaints + self._workload.stuck()

    def unready(self) -> list[str]:
        """What it can't reach."""
        outages = {BROKER: self._broker_outage, DATABASE: self._database_outage}
        away = {what for what, outage in outages.items() if outage.lasts} | {self._turns.hanging}
        return [f"queue {self.queue}: the {what} can't be reached" for what in outages if what in away]

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:  # noqa: BLE001 - the thread's boundary: the process sees it, ends, and is started again
            self.failed = True
            _log.exception("queue_consumer_failed", queue=self.queue)
        finally:
            self._workload.close()
            IN_FLIGHT.labels(self.queue).set(0)

    def _serve(self) -> None:
        transport = open_transport(self._settings.resolved_broker_url(), self._name)
        try:
            while not self._finished():
                self._turn(transport)
        finally:
            self._give_up(transport)

    def _give_up(self, transport: Transport) -> None:
        """Whatever is still in flight is killed and goes to others."""
        if not self._left:
            self._say_given_up()
        self._workload.close()
        try:
            with self._turns.outside(BROKER):
                transport.close()
        except BrokerUnavailable as error:
            self._lost_broker(error)

    def _say_given_up(self) -> None:
        if messages := self._workload.in_flight:
            _log.warning("batches_given_up", queue=self.queue, messages=messages)

    def _finished(self) -> bool:
        if self._stop_by is None:
            return False
        return self._left or not self._workload.in_flight or time.monotonic() > self._stop_by

    def _turn(self, transport: Transport) -> None:
        self._turns.turned()
        self._workload.wait(self._patience())
        self._workload.start(self._admit)  # before the settlement, for which the workers need not wait
        for batch in list(self._workload.finished):
            self._settle(batch, transport)
        self._workload.start(self._admit)
        if self._may_receive():
            self._receive(transport)
        IN_FLIGHT.labels(self.queue).set(self._workload.in_flight)

    def _may_receive(self) -> bool:
        wanted = self._stop_by is None and not self._paused
        return wanted and self._workload.room and self._broker_outage.may_try

    def _patience(self) -> float:
        """Seconds to wait for a slot before the next look at the queue."""
        outage = self._broker_outage.lasts or self._database_outage.lasts
        if self._workload.finished and not outage:
            return 0.0
        if not self._may_receive():
            return RECEIVE_WAIT
        return self._pause if self._workload.in_flight else 0.0

    def _receive(self, transport: Transport) -> None:
        wait = 0.0 if self._workload.in_flight else RECEIVE_WAIT
        try:
            with self._turns.outside(BROKER):
                deliveries = transport.receive(self.queue, self._spec.batch, wait)
        except BrokerUnavailable as error:
            self._lost_broker(error)
            return
        if not any(batch.verdicts for batch in self._workload.finished):
            self._broker_outage.back()  # else only the publication that failed tells whether the broker is back
        if self._left:
            return
        if deliveries:
            self._pause = _LEAST_PAUSE
            self._empty_looks = 0
            self._workload.accept(deliveries)
            self._workload.start(self._admit)
        else:
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)
            self._look_found_nothing(waited=wait > 0)

    def _look_found_nothing(self, *, waited: bool) -> None:
        self._empty_looks = self._empty_looks + 1 if waited else 0
        if self._empty_looks >= _LOOKS:
            self._workload.found_empty()

    def _admit(self, batch: Batch) -> bool:
        """Count a redelivered message before it runs, since it may be what ended its consumer; False: not now."""
        message_id = batch.came_again
        if message_id is None or not self._database_outage.may_try:
            return False
        try:
            with self._turns.outside(DATABASE):
                times = self._database.transact(lambda tx: count_redelivery(tx, message_id))
        except DatabaseUnavailable as error:
            self._database_outage.lost(error)
            return False
        self._database_outage.back()
        REDELIVERIES.labels(self.queue).inc()
        if times > self._settings.message_attempts:
            batch.round.next()
            batch.round.succeeded([Dead(f"killed its consumer {times} times")])
        return True

    def _settle(self, batch: Batch, transport: Transport) -> None:
        """Commit, publish, acknowledge; what an outage leaves undone is done when the outage is over."""
        if batch.verdicts is None and self._database_outage.may_try:
            try:
                with self._turns.outside(DATABASE):
                    self._settlement.commit(batch, self._database)
            except DatabaseUnavailable as error:
                self._database_outage.lost(error)
                return
            self._database_outage.back()
        if batch.verdicts is None or not self._broker_outage.may_try:
            return
        try:
            with self._turns.outside(BROKER):
                self._settlement.publish(batch, transport)
        except BrokerUnavailable as error:
            self._lost_broker(error)
            return
        if batch.verdicts.follow_ups:
            self._broker_outage.back()  # an acknowledgement alone may have been dropped in silence
        self._settled += max(0, len(batch.deliveries) - len(batch.verdicts.deferrals))
        self._workload.finished.remove(batch)

    def _lost_broker(self, error: BrokerUnavailable) -> None:
        if self._broker_outage.lost(error):
            BROKER_LOST.labels(self.queue).inc()
