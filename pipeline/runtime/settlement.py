"""What happens to a batch once its round is over: commit retries and dead letters, publish follow-ups, acknowledge."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from structlog import get_logger

from pipeline.log_fields import FIRST
from pipeline.metrics import DEAD_LETTERS, DEFERRED, FOLLOW_UPS, MESSAGES
from pipeline.runtime.rounds import Group, Result, Round
from pipeline.runtime.spec import ConsumerSpec
from pipeline.runtime.verdicts import Policy, Verdicts, judge
from pipeline.settings import Settings
from pipeline.store.database import Database, Transaction
from pipeline.store.messages import Deferral, bury, defer, forget_redeliveries
from pipeline.transport.port import Delivery, Transport
from schemas.messages import Message
from schemas.outcomes import Done, Retry

_CHANCE = random.SystemRandom()
HOLD_LIMIT = 480.0
"""Seconds after its receipt at which a batch begins nothing more, however many halves are left. RabbitMQ closes the
connection of a consumer that keeps a delivery for 30 minutes. A batch ends within this and one deadline; one that was
fetched ahead is received no later than the one before it ends, and takes as long: together 28 minutes at the most, with
the longest deadline that the settings allow (`pipeline.settings.LONGEST_DEADLINE`)."""

_log = get_logger("runtime")


@dataclass(slots=True, eq=False)
class Batch:
    """Deliveries that were handed to the pool together."""

    deliveries: Sequence[Delivery]
    round: Round
    came_again: str | None = None
    """The id of a redelivered message, which is alone in its batch and counted in the database."""
    started: float | None = None
    """When it was first given to the pool, by the monotonic clock."""
    verdicts: Verdicts | None = field(default=None)
    """Set once they are committed."""
    published: bool = False
    received: float = field(default_factory=time.monotonic)
    """By the monotonic clock."""

    def overdue(self, now: float) -> bool:
        """Whether it has been held for so long that the broker might take it away."""
        return now - self.received > HOLD_LIMIT

    def next(self, now: float) -> Group | None:
        """The payloads to run now, or None when its round is over; of an overdue one nothing more is run.

        The rest then comes again as deferred messages, which takes no attempt.
        """
        if self.overdue(now):
            self.round.give_up(Retry(f"not begun {HOLD_LIMIT:g} s after its receipt", outside=True))
        return self.round.next()

    @property
    def results(self) -> Sequence[tuple[bytes, Result]]:
        """What is known of its messages."""
        return self.round.results


class Settlement:
    """The rules of one queue, applied. A failure on the way is met by calling again with the same batch."""

    def __init__(self, settings: Settings, spec: ConsumerSpec, read: Callable[[bytes], Message]) -> None:
        self._policy = Policy(spec.queue, settings.message_attempts, settings.outside_age, spec.backoff)
        self._wake_after = settings.wake_after
        self._read = read

    def commit(self, batch: Batch, database: Database) -> None:
        """Store what must be stored, in one transaction, once. Raises DatabaseUnavailable."""
        if batch.verdicts is None:
            batch.verdicts = self._commit_results(batch, database)
            self._tell(batch.verdicts)

    def publish(self, batch: Batch, transport: Transport) -> None:
        """Publish the follow-ups and then acknowledge. Raises BrokerUnavailable."""
        assert batch.verdicts is not None, "commit comes first"
        if not batch.published and batch.verdicts.follow_ups:
            transport.publish(batch.verdicts.follow_ups)
            FOLLOW_UPS.labels(self._policy.queue).inc(len(batch.verdicts.follow_ups))
        batch.published = True
        transport.acknowledge(batch.deliveries)

    def _commit_results(self, batch: Batch, database: Database) -> Verdicts:
        if batch.came_again is None and all(isinstance(result, Done) for _payload, result in batch.results):
            follow_ups = [m for _, result in batch.results if isinstance(result, Done) for m in result.follow_ups]
            return Verdicts(follow_ups, done=len(batch.results))
        return database.transact(lambda tx: self._store(tx, batch))

    def _store(self, tx: Transaction, batch: Batch) -> Verdicts:
        verdicts = judge(batch.results, self._policy, self._read, now=tx.now, chance=_CHANCE.random)
        defer(tx, verdicts.deferrals, wake_after=self._wake_after)
        bury(tx, verdicts.burials)
        if batch.came_again is not None:
            forget_redeliveries(tx, [batch.came_again])
        return verdicts

    def _tell(self, verdicts: Verdicts) -> None:
        queue = self._policy.queue
        counts = {"done": verdicts.done, "retried": len(verdicts.deferrals), "dead": len(verdicts.burials)}
        for outcome, count in counts.items():
            MESSAGES.labels(queue, outcome).inc(count)
        DEFERRED.labels(queue).inc(len(verdicts.deferrals))
        DEAD_LETTERS.labels(queue).inc(len(verdicts.burials))
        alike: defaultdict[str, list[Deferral]] = defaultdict(list)
        for deferral in verdicts.deferrals:
            alike[deferral.reason].append(deferral)
        for reason, deferred in alike.items():
            _log.info(
                "messages_deferred",
                queue=queue,
                reason=reason,
                count=len(deferred),
                message_ids=[str(each.message.id) for each in deferred[:FIRST]],
                attempt=max(each.message.attempt for each in deferred),
                delay=round(min(each.delay for each in deferred), 1),
            )
        for burial in verdicts.burials:
            trace = burial.message.trace if burial.message is not None else None
            about = {"queue": queue, "message_id": burial.message_id, "type": burial.type, "attempt": burial.attempts}
            _log.error("message_died", **about, reason=burial.reason, trace=trace)
