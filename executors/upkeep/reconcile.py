"""Reconcile: rows that are due and that nobody works on are published again, without storms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from structlog import get_logger

from executors.upkeep.decide import Horizon, horizon
from pipeline.queue_views import complete
from pipeline.runtime.spec import Context
from pipeline.store import files, half_done, job_commands, jobs, reconcile, releases, steps
from pipeline.store.database import Transaction
from pipeline.store.instances import list_instances
from pipeline.store.job_commands import JobFilter
from pipeline.store.losses import Rules
from pipeline.store.steps import Window
from pipeline.transport.port import open_transport
from schemas.messages import (
    FilesDue,
    JobsReceived,
    JobsWaiting,
    Message,
    OutputsReported,
    SlotsOffered,
    StepsDue,
    about_ids,
)
from schemas.states import JobState

MOST = 10_000
"""Overdue ids read per tick at the most."""
QUEUES = ("optimisation", "matching", "data")

_log = get_logger("upkeep")


def run(context: Context) -> list[Message]:
    """The messages about rows that are overdue."""
    transport = open_transport(context.settings.resolved_broker_url(), f"{context.instance}-reconcile")
    try:
        depths = transport.depth(QUEUES)
    finally:
        transport.close()
    rows = context.database.read(list_instances)
    wake_after = context.settings.wake_after
    horizons = {queue: horizon(complete(queue, depths[queue], rows), wake_after) for queue in QUEUES}
    found: list[Message] = []
    for work in (_jobs, _steps, _slots, _files):
        found += context.database.transact(partial(work, context=context, horizons=horizons))
    found += _finish_commands(context)
    releases.book_all(context.database, context.settings.share_half_life)
    for message in found:
        context.tally.note("reconcile_finds", message.type, value=len(message.body.ids()))
    if found:
        _log.info("overdue_rows_published", messages=len(found), ids=sum(len(m.body.ids()) for m in found))
    return found


def _finish_commands(context: Context) -> list[Message]:
    """Cancel and pause go through a campaign's jobs in steps, and their process may die on the way."""
    database = context.database
    messages: list[Message] = []
    for vo_id, campaign_id in database.read(half_done.half_cancelled):
        messages += job_commands.kill(database, vo_id, JobFilter(campaign_id=campaign_id)).messages
    for step_id in database.read(half_done.half_paused):
        half_done.withdraw(database, step_id)
    return messages


def _jobs(tx: Transaction, context: Context, horizons: Mapping[str, Horizon]) -> list[Message]:
    reconcile.return_unconfirmed(tx, MOST, Rules.of(context.settings))
    overdue = jobs.overdue(tx, (JobState.RECEIVED, JobState.COMPLETING), MOST)
    messages: list[Message] = []
    for state, body in ((JobState.RECEIVED, JobsReceived), (JobState.COMPLETING, OutputsReported)):
        ids = [job_id for job_id, found in overdue if found is state]
        judged = horizons[body.queue]
        jobs.set_wake_at(tx, ids, tx.after(judged.next_look))
        if judged.publish:
            messages += about_ids(body, ids, now=tx.now)
    return messages


def _steps(tx: Transaction, context: Context, horizons: Mapping[str, Horizon]) -> list[Message]:
    messages: list[Message] = []
    if horizons[StepsDue.queue].publish:
        messages += about_ids(StepsDue, steps.all_ended_steps(tx), now=tx.now)
    if horizons[JobsReceived.queue].publish:
        window = Window(context.settings.campaign_window, tx.after(context.settings.wake_after))
        for step_id in steps.starved_steps(tx):
            messages += steps.next_window(tx, step_id, window)
    return messages


def _slots(tx: Transaction, context: Context, horizons: Mapping[str, Horizon]) -> list[Message]:
    del context
    judged = horizons[SlotsOffered.queue]
    pilots = reconcile.overdue_slots(tx, MOST, judged.next_look)
    if not judged.publish:
        return []
    waiting = reconcile.waiting_beside_parked(tx, MOST)
    return about_ids(SlotsOffered, pilots, now=tx.now) + about_ids(JobsWaiting, waiting, now=tx.now)


def _files(tx: Transaction, context: Context, horizons: Mapping[str, Horizon]) -> list[Message]:
    del context
    judged = horizons[FilesDue.queue]
    ids = files.overdue_files(tx, MOST)
    files.set_files_wake_at(tx, ids, judged.next_look)
    return about_ids(FilesDue, ids, now=tx.now) if judged.publish else []
