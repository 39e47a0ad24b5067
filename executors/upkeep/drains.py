"""Drains are kept up: new sites are banned, late pilots told, deadlines carried out, and what is drained is latched."""

from __future__ import annotations

from functools import partial

from structlog import get_logger

from executors.upkeep import held
from pipeline.runtime.spec import Context
from pipeline.store import drain_pilots, drain_reports, drains
from pipeline.store.drains import Drain
from schemas.drain_views import DrainReport, DrainState
from schemas.messages import Message, SiteQueuesDue, about_ids

_log = get_logger("upkeep")


def run(context: Context) -> list[Message]:
    """Look after every drain in force; the messages about site queues with something to do, and about jobs that a
    drain held which is over."""
    database = context.database
    queue_ids: set[int] = set()
    for known in database.read(drains.all_in_force):
        drain = database.transact(partial(drains.keep_up, drain_id=known.id))
        if drain is None:
            _log.info("drain_taken_back", drain=known.id, kind=known.kind, target=known.target)
            continue
        told = drain_pilots.tell(database, drain)
        queue_ids |= told.queue_ids
        if told.ended:
            _log.warning("drain_killed", drain=drain.id, kind=drain.kind, target=drain.target, pilots=told.ended)
        if drain.drained_at is None:
            _say(drain, drain_reports.judge(database, drain.id))
    messages = about_ids(SiteQueuesDue, sorted(queue_ids), now=database.now(), size=1) if queue_ids else []
    return [*messages, *(held.wake(context) if database.read(drains.lifted_lately) else [])]


def _say(drain: Drain, found: DrainReport) -> None:
    about = {"drain": drain.id, "kind": drain.kind, "target": drain.target}
    if found.state is DrainState.DRAINED:
        _log.info("drain_done", **about)
    elif drain.is_overdue:
        _log.warning("drain_overdue", **about, left=sum(line.count for line in found.holding))
