"""The pilots executor: a cycle is planned once, and site queues are carried out side by side."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from structlog import get_logger

from executors.pilots.demand import read_demand
from executors.pilots.planning.decide import Plan, PlanRules, plan
from executors.pilots.rounds import Rounds
from pipeline.errors import DemandUnknown
from pipeline.runtime.spec import Context
from pipeline.store import provisioning, provisioning_orders, trigger_runs
from pipeline.store.database import Transaction
from pipeline.store.live_pilots import note_idle
from pipeline.store.provisioning_rows import Past, Situation
from schemas.messages import Message, ProvisioningDue, SiteQueuesDue, about_ids
from schemas.outcomes import Done, Outcome

BATCH = 200
"""Messages that are taken at once: nearly all name one site queue, which gets a thread of its own. There are more
threads than that, for rounds that earlier batches did not wait for."""
_rounds = Rounds()
"""Of this process: a batch system that hangs is known beyond the batch."""
_log = get_logger("pilots")


def execute(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """One outcome per message; the follow-ups of the whole batch go with its last one."""
    follow_ups: list[Message] = []
    cycles = [message.body.cycle for message in messages if isinstance(message.body, ProvisioningDue)]
    if cycles:
        follow_ups += context.database.transact(lambda tx: _provision(tx, context, max(cycles)))
    due = {i for message in messages if isinstance(message.body, SiteQueuesDue) for i in message.body.ids()}
    if due:
        follow_ups += _rounds.carry_out(context, due)
    return [*(Done() for _ in messages[1:]), Done(tuple(follow_ups))]


def _provision(tx: Transaction, context: Context, cycle: int) -> list[Message]:
    """Plan a cycle that nobody has planned. One that comes again only says again which queues have work.

    Without a reading of the demand nothing is planned until the next tick; what is there is followed all the same.
    """
    if provisioning.begin_cycle(tx, cycle):
        # a tick that nobody marks holds the next ones back for its whole grace
        trigger_runs.mark_executed(tx, trigger_runs.Run("provisioning", datetime.fromtimestamp(cycle, UTC)))
        try:
            reading = read_demand(tx, context.settings)
        except DemandUnknown as error:
            tx.tell(_log.warning, "demand_not_read", cycle=cycle, reason=str(error))
        else:
            now = provisioning.situation(tx, reading)
            _write(tx, now, plan(now, PlanRules(margin=context.settings.pilot_margin)))
    elif provisioning.present_cycle(tx) != cycle:
        return []
    return about_ids(SiteQueuesDue, provisioning.busy_queues(tx), now=tx.now, size=1)


def _write(tx: Transaction, now: Situation, made: Plan) -> None:
    requested = [(order.room, tag) for order in made.orders for tag in provisioning_orders.new_tags(order.request)]
    removed = [*made.strays, *(pilot for order in made.orders for pilot in order.remove)]
    drained = [pilot for order in made.orders for pilot in order.drain]
    provisioning_orders.request_pilots(tx, requested)
    provisioning_orders.request_removal(tx, removed)
    provisioning_orders.request_drain(tx, drained)
    note_idle(tx, now.pilots)
    left = {order.room.place: Past(order.low_cycles, order.hold_until) for order in made.orders}
    provisioning_orders.keep_past(tx, now.past, left)
    if requested or removed or drained:
        counts = {"requested": len(requested), "unwanted": len(removed), "drained": len(drained)}
        tx.tell(_log.info, "pilots_planned", **counts)
