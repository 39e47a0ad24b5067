"""Drains are kept up: new sites are banned, late pilots told, deadlines carried out, and what is drained is latched."""

from __future__ import annotations

from functools import partial
from typing import Any

from structlog import get_logger

from executors.upkeep import held
from pipeline.runtime.spec import Context
from pipeline.store import drain_pilots, drain_reports, drains
from pipeline.store.drains import Drain
from schemas.drain_views import OF_PROCESSES, DrainState
from schemas.messages import Message, SiteQueuesDue, about_ids

_EVENTS = {
    DrainState.DRAINING: "drain_begun",
    DrainState.OVERDUE: "drain_overdue",
    DrainState.DRAINED: "drain_done",
    DrainState.LIFTED: "drain_lifted",
}

_log = get_logger("upkeep")


def run(context: Context) -> list[Message]:
    """Look after every drain in force, and say what has become of it, whoever saw that first; the messages about site
    queues with something to do, and about jobs that a drain held which is over."""
    database = context.database
    queue_ids: set[int] = set()
    left: dict[int, int] = {}
    for known in database.read(drains.all_in_force):
        drain = database.transact(partial(drains.keep_up, drain_id=known.id))
        if drain is None:
            continue
        told = drain_pilots.tell(database, drain)
        queue_ids |= told.queue_ids
        if told.ended:
            _log.warning("drain_killed", **_about(drain), pilots=told.ended)
        if drain.drained_at is None:
            left[drain.id] = sum(line.count for line in drain_reports.judge(database, drain.id).holding)
    messages = about_ids(SiteQueuesDue, sorted(queue_ids), now=database.now(), size=1) if queue_ids else []
    news = database.read(drains.news)
    messages += _wake(context, [drain for drain in news if drain.state is DrainState.LIFTED])
    if news:
        database.transact(partial(drains.note_told, news=news))  # last: who is killed before does it all again
    for drain in news:
        say = _log.warning if drain.state is DrainState.OVERDUE else _log.info
        say(_EVENTS[drain.state], **_about(drain), left=left.get(drain.id, 0))
    return messages


def _wake(context: Context, lifted: list[Drain]) -> list[Message]:
    """Jobs that these may have held: those of their VOs, or all."""
    whose = {drain.vo_id for drain in lifted if drain.kind not in OF_PROCESSES}
    each = [None] if None in whose else sorted(vo_id for vo_id in whose if vo_id is not None)
    return [message for vo_id in each for message in held.wake(context, vo_id)]


def _about(drain: Drain) -> dict[str, Any]:
    return {"drain": drain.id, "kind": drain.kind, "target": drain.target}
