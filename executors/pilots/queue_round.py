"""One round of one site queue under its lease: poll by tag and adopt, remove the unwanted, release the held, submit
what is requested, and collect what pilots wrote.

Whatever is known before a call is committed before it, and each of those transactions makes sure that the lease is
still ours. A crash at any point is made good by the next round, which adopts by tag before it submits.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from structlog import get_logger

from executors.pilots.follow import Hearing, Steps, follow, healthy
from executors.pilots.outputs import collect
from executors.pilots.port import BatchAnswer, BatchSystem, PilotRequest, QueueSettings, open_batch_system
from executors.pilots.program import find_program
from pipeline.errors import BadSettings, BatchSystemUnavailable, DatabaseUnavailable, StorageUnavailable
from pipeline.log_fields import FIRST
from pipeline.runtime.spec import Context
from pipeline.store import heartbeats, pilots, queue_pilots
from pipeline.store.database import Transaction
from pipeline.store.losses import Aftermath, Rules, to_publish
from pipeline.store.queue_pilots import BatchPilot, LeasedQueue, LeaseLost, Move, Taken
from schemas.messages import Message
from schemas.outcomes import Backoff

SECRET_LIFE = 7 * 86_400.0
"""Seconds that a submitted pilot may wait in its batch queue until its secret is worth nothing."""
BACKOFF = Backoff(base=15.0, cap=1_800.0)
_AT_ONCE = 4
"""Transactions of rounds at a time: as many connections as a process keeps open. Threads are for waiting elsewhere."""
_door = threading.BoundedSemaphore(_AT_ONCE)
_log = get_logger("pilots")
T = TypeVar("T")


def hearing(tx: Transaction, context: Context) -> Hearing:
    """Since when pilots could be heard."""
    settings = context.settings
    since = heartbeats.serving_since(tx, heartbeats.SERVING_GAP * settings.heartbeat_interval)
    return Hearing(tx.now, since, settings.heartbeat_timeout, settings.pilot_enrol_limit)


@dataclass(slots=True)
class Round:
    """The round of one queue."""

    context: Context
    queue: LeasedQueue
    hearing: Hearing
    taken: dict[str, Taken] = field(default_factory=dict)
    """What the batch system has taken and no row says yet."""
    released: list[int] = field(default_factory=list)
    """The ids of held pilots that it has let go on, and no row says so yet."""

    def carry_out(self) -> list[Message]:
        """The messages about jobs of pilots that have ended. A queue in trouble is left alone for a while, and nobody
        else notices. Raises DatabaseUnavailable."""
        messages: list[Message] = []
        try:
            self._attempt(messages)
        except LeaseLost:
            _log.warning("round_too_late", site_queue=self.queue.label)
        return messages

    def give_up(self, seconds: float) -> None:
        """It takes too long: the queue backs off, and what a late answer leads to is not written."""
        kind = self.queue.entry.batch_system
        try:
            self._back_off(f"the batch system {kind} did not answer within {seconds:g} s")
        except LeaseLost:
            return

    def _attempt(self, messages: list[Message]) -> None:
        try:
            trouble = self._act(messages)
        except (BatchSystemUnavailable, BadSettings) as error:
            self._back_off(str(error))
        except (LeaseLost, DatabaseUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a batch system of others raises is its queue's trouble
            _log.exception("round_failed", site_queue=self.queue.label)
            self._back_off(f"{type(error).__name__}: {error}")
        else:
            self._give_back(trouble)

    def _act(self, messages: list[Message]) -> str:
        """What is wrong with the queue, if something is."""
        queue, settings = self.queue, self.context.settings
        system = open_batch_system(QueueSettings(queue.label, queue.entry, settings.resolved_data_dir()))
        answers = system.poll([pilot.tag for pilot in queue.pilots])
        steps = follow(queue.pilots, answers, self.hearing, queue.entry.nodes)
        wanted = [] if steps.trouble else [*steps.submit, *steps.release]
        secrets = self._adopt(steps, answers, wanted)
        messages += self._end(steps)
        if steps.remove:
            system.remove(steps.remove)
            _log.info(
                "pilots_removed", site_queue=queue.label, count=len(steps.remove), tags=list(steps.remove)[:FIRST]
            )
        self._submit(system, wanted, secrets)
        if steps.collect:
            self._collect(system, steps)
        return steps.trouble

    def _adopt(self, steps: Steps, answers: Mapping[str, BatchAnswer], wanted: Sequence[BatchPilot]) -> dict[int, str]:
        """Write what the poll says. Secrets by VO: committed before anything is submitted, so that no pilot comes
        unknown."""
        found = {
            pilot.tag: Taken(answers[pilot.tag].handle)
            for pilot, _ in steps.moves
            if pilot.tag in answers and pilot.submitted_at is None
        }
        uses = Counter(pilot.vo_id for pilot in wanted)
        moves = [Move(pilot.id, then.to, then.reason, then.runs, then.unwanted) for pilot, then in steps.moves]
        if not moves and not uses:
            return {}

        def work(tx: Transaction) -> dict[int, str]:
            queue_pilots.submitted(tx, found)
            queue_pilots.move_pending(tx, moves)
            return {
                vo_id: pilots.new_secret(tx, self.queue.id, vo_id, uses=many, valid_for=SECRET_LIFE)
                for vo_id, many in uses.items()
            }

        return self._write(work)

    def _end(self, steps: Steps) -> Iterable[Message]:
        """Enrolled pilots whose batch job has ended and that are silent take their jobs with them."""
        rules = Rules.of(self.context.settings)
        for pilot, then in steps.ends:
            ending = pilots.Ending(then.to, then.reason, unless_seen_after=pilot.last_seen)
            end: Callable[[Transaction], Aftermath] = partial(pilots.end, pilot_id=pilot.id, ending=ending, rules=rules)
            yield from to_publish(self.context.database, self._write(end))
            _log.info("pilot_ended", site_queue=self.queue.label, pilot_id=pilot.id, state=then.to, reason=then.reason)

    def _submit(self, system: BatchSystem, wanted: Sequence[BatchPilot], secrets: Mapping[int, str]) -> None:
        """Per VO. Tags that are refused stay requested. One that is held is released by being submitted again."""
        if not wanted:
            return
        program = find_program(self.context.settings, self.queue.entry)
        for vo_id, secret in secrets.items():
            mine = [pilot for pilot in wanted if pilot.vo_id == vo_id]
            answer = system.submit([PilotRequest(pilot.tag, secret) for pilot in mine], program)
            fresh = {pilot.tag for pilot in mine if pilot.held_at is None}
            self.taken |= {tag: Taken(one.handle, one.ends_at) for tag, one in answer.items() if tag in fresh}
            self.released += [pilot.id for pilot in mine if pilot.tag in answer and pilot.tag not in fresh]
            refused = len(mine) - len(answer)
            _log.info("pilots_submitted", site_queue=self.queue.label, count=len(answer), refused=refused)

    def _collect(self, system: BatchSystem, steps: Steps) -> None:
        """Keep what pilots wrote, and let the batch system forget those that have ended."""
        self._write(lambda _: None)  # what was submitted is not lost when this takes long
        try:
            kept = collect(self.context.settings, system, steps.collect)
        except StorageUnavailable as error:
            _log.warning("pilot_outputs_not_kept", site_queue=self.queue.label, reason=str(error))
            return
        if steps.over:
            system.remove(steps.over)
        done = [pilot.id for pilot in steps.collect]
        self._write(lambda tx: queue_pilots.collected(tx, done, kept))

    def _give_back(self, trouble: str) -> None:
        well = healthy(self.queue.pilots)
        if trouble:
            self._back_off(trouble, before=0 if well else self.queue.failures)
            return
        self._write(lambda tx: queue_pilots.release(tx, self.queue, healthy=well))

    def _back_off(self, reason: str, before: int | None = None) -> None:
        """`before`: how often it has failed, where that is not what the row says."""
        failures = (self.queue.failures if before is None else before) + 1
        seconds = BACKOFF.ceiling(failures)
        self._write(lambda tx: queue_pilots.back_off(tx, self.queue, failures, seconds, reason))
        _log.warning("site_queue_backed_off", site_queue=self.queue.label, seconds=seconds, reason=reason)

    def _write(self, work: Callable[[Transaction], T]) -> T:
        """Under the fence, together with what no row says yet, once. Raises LeaseLost."""
        taken, released = dict(self.taken), list(self.released)

        def fenced(tx: Transaction) -> T:
            queue_pilots.fence(tx, self.queue)
            queue_pilots.submitted(tx, taken)
            queue_pilots.released(tx, released)
            return work(tx)

        with _door:
            answer = self.context.database.transact(fenced)
        self.taken, self.released = {}, []
        return answer
