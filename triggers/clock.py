"""One turn of the clock: which ticks are due, who claims them, what is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from structlog import get_logger

from pipeline.metrics import TRIGGERS_PUBLISHED, TRIGGERS_SKIPPED
from pipeline.queue_views import complete, serving
from pipeline.store import trigger_runs
from pipeline.store.database import Database, Transaction
from pipeline.store.instances import InstanceRow, list_instances
from pipeline.store.trigger_runs import Run
from pipeline.transport.port import Depth, Transport
from pipeline.trigger import Trigger
from pipeline.turns import BROKER, DATABASE, Turns
from schemas.messages import Message
from schemas.versions import numbers

_log = get_logger("triggers")


@dataclass(slots=True)
class Clock:
    """Publishes every tick at least once; any number of clocks may turn side by side.

    A tick is claimed as a row, published, and marked as published; a claim that stays unpublished (its
    clock was killed) is taken over. `seen` only spares the database: it may be empty at any time.
    """

    database: Database
    transport: Transport
    triggers: Mapping[str, Trigger]
    instance: str
    seen: dict[str, datetime] = field(default_factory=dict)
    owed: list[Run] = field(default_factory=list)
    """Claimed, but the broker did not take them: they come first in the next turn."""
    held: frozenset[str] = frozenset()
    """Triggers whose ticks wait for a consumer that knows them."""
    refused: bool = False
    """Whether the broker took no ticks when it was given some last; a turn without any may go well meanwhile."""
    turns: Turns = field(default_factory=Turns)
    """Told of each turn, and when it waits for the broker or the database."""

    def turn(self) -> int:
        """Publish what is due now; how many ticks. Raises BrokerUnavailable with the claims left for the next turn."""
        with self.turns.outside(DATABASE):
            now = self.database.now()
        due = {name: trigger.last_due(now) for name, trigger in self.triggers.items()}
        news = [Run(name, moment) for name, moment in due.items() if self.seen.get(name) != moment]
        with self.turns.outside(DATABASE):
            left = bool(self.owed) or self.database.read(trigger_runs.any_left)
        if not news and not left:
            return 0
        with self.turns.outside(DATABASE):
            rows = self.database.read(list_instances)
        held = frozenset(name for name, trigger in self.triggers.items() if _is_held(trigger, now, rows))
        for name in sorted(held - self.held):
            _log.info("ticks_held", trigger=name, since=self.triggers[name].since)
        self.held = held
        news = [run for run in news if run.name not in held]
        if not news and not left:
            return 0
        queues = self._depths(news, rows)
        with self.turns.outside(DATABASE):
            self.owed = self.database.transact(partial(self._claim, queues=queues))
        self.seen = {**self.seen, **{run.name: run.scheduled_for for run in news}}
        published = len(self.owed)
        self._publish(self.owed)
        self.owed = []
        return published

    def _depths(self, runs: Sequence[Run], rows: Sequence[InstanceRow]) -> Mapping[Run, Depth]:
        """How full the queue of each tick is."""
        queues = {run: self.triggers[run.name].body(run.scheduled_for).queue for run in runs}
        if not queues:
            return {}
        with self.turns.outside(BROKER):
            told = self.transport.depth(sorted(set(queues.values())))
        return {run: complete(queue, told[queue], rows) for run, queue in queues.items()}

    def _claim(self, tx: Transaction, queues: Mapping[Run, Depth]) -> list[Run]:
        claimed: list[Run] = []
        for run in dict.fromkeys([*self.owed, *trigger_runs.take_over(tx, self.instance)]):
            if run.name in self.triggers and self._is_too_late(tx, run):
                trigger_runs.skip(tx, run)
                self._say_skipped(tx, run, too_late=True)
            elif run.name in self.triggers and run.name not in self.held:
                claimed.append(run)  # one that is held is left to be taken over, until it goes or is too late
        for run, depth in queues.items():
            too_late = self._is_too_late(tx, run)
            skip = too_late or trigger_runs.is_pending(tx, run.name, depth)
            if not trigger_runs.claim(tx, run, self.instance, skipped=skip):
                continue
            if skip:
                self._say_skipped(tx, run, too_late=too_late)
            else:
                claimed.append(run)
        return claimed

    def _is_too_late(self, tx: Transaction, run: Run) -> bool:
        return (tx.now - run.scheduled_for).total_seconds() > self.triggers[run.name].grace

    def _say_skipped(self, tx: Transaction, run: Run, *, too_late: bool) -> None:
        tx.told.append(TRIGGERS_SKIPPED.labels(run.name).inc)
        said = _log.warning if too_late else _log.info
        tx.tell(said, "tick_skipped", trigger=run.name, due=run.scheduled_for.isoformat(), too_late=too_late)

    def _publish(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        with self.turns.outside(DATABASE):
            now = self.database.now()
        bodies = [self.triggers[run.name].body(run.scheduled_for) for run in runs]
        self.refused = True
        messages = [Message.about(body, now=now) for body in bodies]
        with self.turns.outside(BROKER):
            self.transport.publish(messages)
        self.refused = False
        with self.turns.outside(DATABASE):
            self.database.transact(partial(trigger_runs.mark_published, runs=runs))
        for run in runs:
            TRIGGERS_PUBLISHED.labels(run.name).inc()


def _is_held(trigger: Trigger, now: datetime, rows: Sequence[InstanceRow]) -> bool:
    """Whether its ticks wait, since a consumer of a release that does not know them would bury them.

    That is one which serves the queue, and while nobody does, one that may come.
    """
    if not trigger.since:
        return False
    consumers = serving(trigger.body(now).queue, rows)
    return not consumers or any(_is_older(row.version, trigger.since) for row in consumers)


def _is_older(version: str, since: str) -> bool:
    """Whether this is a release from before `since`; of one that is no plain version nobody can tell."""
    try:
        return numbers(version) < numbers(since)
    except ValueError:
        return False
