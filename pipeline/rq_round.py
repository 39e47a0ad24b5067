"""What a stock RQ worker calls for a message of ours: the whole round, by itself.

`rq worker --serializer json matching` serves our queues like a consumer does, a message at a time and
in the worker's own process. It loads the settings itself, since RQ hands it nothing but the message.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import DatabaseUnavailable
from pipeline.logs import configure_logging
from pipeline.runtime.execution import execute_group, reader
from pipeline.runtime.instance import name_instance
from pipeline.runtime.rounds import Failure, Round
from pipeline.runtime.settlement import Batch, Settlement
from pipeline.runtime.spec import ConsumerSpec, Context, find_consumer
from pipeline.settings import Settings
from pipeline.settings_file import load_settings
from pipeline.store.database import Database
from pipeline.store.queue_sizes import Work, add_work
from pipeline.transport.port import Transport, open_transport
from pipeline.transport.rq_current import current_queue


def execute_message(message_json: str) -> None:
    """Execute one message, commit its outcome and publish its follow-ups.

    A message that fails, or is none, is deferred or becomes a dead letter, as in our consumer: to RQ that
    is a success. Raises BrokerUnavailable or DatabaseUnavailable, upon which RQ keeps it as a failed job,
    BadSettings when no consumer serves the queue, and BadInput outside of RQ workers.
    """
    settings = load_settings()
    configure_logging(settings, "rq-worker")
    payload = message_json.encode()
    spec = find_consumer(current_queue())
    database = Database(settings.resolved_database_url())
    instance = name_instance("rq")
    transport = open_transport(settings.resolved_broker_url(), instance)
    try:
        _Round(settings, spec, database, transport, instance).run(payload)
    finally:
        transport.close()
        database.close()


@dataclass(frozen=True, slots=True)
class _Round:
    settings: Settings
    spec: ConsumerSpec
    database: Database
    transport: Transport
    instance: str

    def run(self, payload: bytes) -> None:
        read = reader(self.spec)
        settlement = Settlement(self.settings, self.spec, read)
        context = Context(self.settings, self.database, self.instance)
        batch = Batch((), Round([payload], read))
        overdue = time.monotonic() + (self.settings.executor_deadline or self.spec.deadline)
        busy_seconds = 0.0
        while group := batch.round.next():
            began = time.monotonic()
            report = execute_group(self.spec, context, self.spec.memory, group)
            seconds = time.monotonic() - began - self.database.take_waited()
            busy_seconds += max(0.0, seconds) * report.own_share
            if isinstance(report.results, Failure):
                batch.round.halving = time.monotonic() < overdue  # RQ's alarm rings once: nothing ends a second hang
                batch.round.failed(report.results)
            else:
                batch.round.succeeded(report.results)
        settlement.commit(batch, self.database)
        settlement.publish(batch, self.transport)
        if batch.verdicts is not None and not batch.verdicts.deferrals:
            work = Work(self.spec.queue, 1, busy_seconds)
            with suppress(DatabaseUnavailable):  # the message is done, whether it is counted or not
                self.database.transact(lambda tx: add_work(tx, [work]))
