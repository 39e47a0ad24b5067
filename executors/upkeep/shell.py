"""The upkeep executor: ticks of one name coalesce, and each is effective once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from executors.upkeep import deferred, drains, held, housekeeping, metrics, reconcile, silence, tails, traces
from pipeline.runtime.spec import Context
from pipeline.store import trigger_runs
from pipeline.store.trigger_runs import Run
from schemas.messages import Message, Tick
from schemas.outcomes import Dead, Done, Outcome

Duty = Callable[[Context], list[Message]]

DUTIES: Mapping[str, Duty] = {
    "reconcile": reconcile.run,
    "deferred": deferred.run,
    "silence": silence.run,
    "metrics": metrics.count,
    "traces": traces.send,
    "bans": held.after_bans,
    "held": held.wake,
    "drains": drains.run,
    "losers": housekeeping.delete_losers,
    "replicas": housekeeping.compare_replicas,
    "recount": housekeeping.count_limits,
    "shares": housekeeping.book_shares,
    "tails": tails.boost,
    "retention": housekeeping.purge,
}
"""Every duty may be done twice without harm; marking it first keeps a redelivered tick from doing so."""


def execute(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """One outcome per tick; a name that no duty has is a dead letter."""
    follow_ups: dict[str, tuple[Message, ...]] = {}
    outcomes: list[Outcome] = []
    for message in messages:
        assert isinstance(message.body, Tick)
        name = message.body.name
        if name not in DUTIES:
            outcomes.append(Dead(f"no duty is named {name!r}; there are {', '.join(sorted(DUTIES))}"))
            continue
        run = Run(name, message.body.scheduled_for)
        is_first = context.database.transact(partial(trigger_runs.mark_executed, run=run))
        if is_first and name not in follow_ups:
            follow_ups[name] = tuple(DUTIES[name](context))
            outcomes.append(Done(follow_ups[name]))
        else:
            outcomes.append(Done())
    return outcomes
