"""The pilots executor: a cycle is planned once, and site queues are carried out side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from structlog import get_logger

from executors.pilots.decide import Plan, plan
from executors.pilots.queue_round import carry_out
from pipeline.runtime.spec import Context
from pipeline.store import provisioning, trigger_runs
from pipeline.store.database import Transaction
from schemas.messages import Message, ProvisioningDue, SiteQueuesDue, about_ids
from schemas.outcomes import Done, Outcome

THREADS = 8
"""Site queues that are waited for at a time: they are somebody else's servers."""

_log = get_logger("pilots")


def execute(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """One outcome per message; the follow-ups of the whole batch go with its last one."""
    follow_ups: list[Message] = []
    cycles = [message.body.cycle for message in messages if isinstance(message.body, ProvisioningDue)]
    if cycles:
        follow_ups += context.database.transact(lambda tx: _provision(tx, context, max(cycles)))
    due = {i for message in messages if isinstance(message.body, SiteQueuesDue) for i in message.body.ids()}
    if due:
        with ThreadPoolExecutor(THREADS) as threads:
            for more in threads.map(partial(carry_out, context), sorted(due)):
                follow_ups += more
    return [*(Done() for _ in messages[1:]), Done(tuple(follow_ups))]


def _provision(tx: Transaction, context: Context, cycle: int) -> list[Message]:
    """Plan a cycle that nobody has planned. One that comes again only says again which queues have work."""
    if provisioning.begin_cycle(tx, cycle):
        # a tick that nobody marks holds the next ones back for its whole grace
        trigger_runs.mark_executed(tx, trigger_runs.Run("provisioning", datetime.fromtimestamp(cycle, UTC)))
        made = plan(provisioning.situation(tx), context.settings.pilot_margin)
        _write(tx, made)
    elif provisioning.present_cycle(tx) != cycle:
        return []
    return about_ids(SiteQueuesDue, provisioning.busy_queues(tx), now=tx.now, size=1)


def _write(tx: Transaction, made: Plan) -> None:
    for request in made.requests:
        provisioning.request_pilots(tx, request.room, request.count)
    provisioning.request_removal(tx, made.removals)
    provisioning.keep_idle(tx, made.idle)
    if made.requests or made.removals:
        wanted = sum(request.count for request in made.requests)
        _log.info("pilots_planned", requested=wanted, unwanted=len(made.removals))
