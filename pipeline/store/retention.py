"""What nobody needs any more goes, a small batch at a time, and only what nothing refers to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import delete, exists, select, update

from pipeline.store import event_counts, instances, messages, trigger_runs
from pipeline.store.database import Database, Transaction
from pipeline.store.tables import (
    attempts,
    campaigns,
    datasets,
    enrolments,
    files,
    idempotency_keys,
    job_events,
    job_specs,
    jobs,
    peeks,
    pilots,
    reported_outputs,
    sandboxes,
    steps,
    tokens,
    vos,
)
from schemas.states import PILOT_FINAL, CampaignState

BATCH = 1_000
ARRIVAL_LIMIT = 3_600.0
_OVER = (CampaignState.DONE, CampaignState.CANCELLED, CampaignState.ARRIVING)
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class JobsOfVo:
    """Jobs that are about to be deleted."""

    vo: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnusedSandbox:
    """A sandbox that no template refers to."""

    vo: str
    digest: str


@dataclass(frozen=True, slots=True)
class EndedPilot:
    """A pilot that is forgotten, some of whose output is kept."""

    vo: str
    id: int


def purge(
    database: Database, seconds: float, forget_archives: Callable[[JobsOfVo], None], *, most_batches: int = 100
) -> int:
    """Delete what is older than `seconds`; how many batches it took. After `most_batches` the next tick goes on.

    `forget_archives` deletes what is kept of jobs outside the database, before their rows go.
    """
    batches = 0
    gone = [*database.read(_stuck_arrivals), *database.read(partial(_ended_campaigns, seconds=seconds))]
    for campaign_id in gone:
        for doomed in _doomed(database, campaign_id):
            forget_archives(doomed)
            database.transact(partial(_remove_jobs, campaign_id=campaign_id, ids=doomed.ids))
            batches += 1
            if batches >= most_batches:
                return batches
        database.transact(partial(_remove_campaign, campaign_id=campaign_id))
    for work in _odds_and_ends(seconds):
        database.transact(work)
        batches += 1
    return batches


def _ended_campaigns(tx: Transaction, seconds: float) -> list[int]:
    over = (CampaignState.DONE, CampaignState.CANCELLED)
    old = (campaigns.c.state.in_(over), campaigns.c.ended_at < tx.after(-seconds))
    return [row.id for row in tx.rows(select(campaigns.c.id).where(*old).order_by(campaigns.c.id).limit(BATCH))]


def _stuck_arrivals(tx: Transaction) -> list[int]:
    """Submissions that died on the way."""
    stuck = (campaigns.c.state == CampaignState.ARRIVING, campaigns.c.created_at < tx.after(-ARRIVAL_LIMIT))
    return [row.id for row in tx.rows(select(campaigns.c.id).where(*stuck).order_by(campaigns.c.id).limit(BATCH))]


def _is_over(tx: Transaction, campaign_id: int) -> bool:
    """Whether it may still be deleted, until the transaction ends: somebody may have retried its failed jobs."""
    return bool(tx.lock(select(campaigns.c.id).where(campaigns.c.id == campaign_id, campaigns.c.state.in_(_OVER))))


def _doomed(database: Database, campaign_id: int) -> Iterator[JobsOfVo]:
    while (found := database.transact(partial(_next_jobs, campaign_id=campaign_id))).ids:
        yield found


def _next_jobs(tx: Transaction, campaign_id: int) -> JobsOfVo:
    if not _is_over(tx, campaign_id):
        return JobsOfVo("", ())
    vo = tx.scalar(
        select(vos.c.name).join(campaigns, campaigns.c.vo_id == vos.c.id).where(campaigns.c.id == campaign_id)
    )
    of_steps = select(steps.c.id).where(steps.c.campaign_id == campaign_id)
    query = select(jobs.c.id).where(jobs.c.step_id.in_(of_steps)).order_by(jobs.c.id).limit(BATCH)
    return JobsOfVo(vo, tuple(row.id for row in tx.rows(query)))


def _remove_jobs(tx: Transaction, campaign_id: int, ids: Sequence[int]) -> None:
    if not _is_over(tx, campaign_id):
        return
    tx.lock(select(jobs.c.id).where(jobs.c.id.in_(ids)).order_by(jobs.c.id))
    event_counts.forget(tx, ids)
    for table in (job_events, attempts, reported_outputs, peeks):
        tx.run(delete(table).where(table.c.job_id.in_(ids)))
    tx.run(delete(jobs).where(jobs.c.id.in_(ids)))
    event_counts.retreat(tx)


def drop_unused_sandboxes(tx: Transaction, seconds: float) -> list[UnusedSandbox]:
    """Forget up to a batch of sandboxes older than `seconds` that nothing refers to; their blobs are the caller's."""
    unused = ~exists().where(
        job_specs.c.sandbox == sandboxes.c.digest,
        job_specs.c.step_id == steps.c.id,
        steps.c.campaign_id == campaigns.c.id,
        campaigns.c.vo_id == sandboxes.c.vo_id,
    )
    query = select(sandboxes.c.vo_id, sandboxes.c.digest, vos.c.name).join(vos, vos.c.id == sandboxes.c.vo_id)
    gone = []
    for row in tx.rows(query.where(sandboxes.c.created_at < tx.after(-seconds), unused).limit(BATCH)):
        mine = (sandboxes.c.vo_id == row.vo_id, sandboxes.c.digest == row.digest)
        if tx.run(delete(sandboxes).where(*mine, unused)):
            gone.append(UnusedSandbox(row.name, row.digest))
    return gone


def drop_ended_pilots(tx: Transaction, seconds: float) -> list[EndedPilot]:
    """Forget up to a batch of pilots that ended so long ago; what was kept of their output is the caller's."""
    old = (pilots.c.state.in_(PILOT_FINAL), pilots.c.ended_at < tx.after(-seconds))
    query = select(pilots.c.id, pilots.c.output_at, vos.c.name).join(vos, vos.c.id == pilots.c.vo_id)
    rows = tx.rows(query.where(*old).limit(BATCH))
    tx.run(delete(pilots).where(pilots.c.id.in_([row.id for row in rows])))
    return [EndedPilot(row.name, row.id) for row in rows if row.output_at is not None]


def _remove_campaign(tx: Transaction, campaign_id: int) -> None:
    if not _is_over(tx, campaign_id):
        return
    of_steps = select(steps.c.id).where(steps.c.campaign_id == campaign_id)
    empty = ~exists().where(files.c.dataset_id == datasets.c.id)
    tx.run(delete(datasets).where(datasets.c.step_id.in_(of_steps), empty))
    tx.run(update(datasets).where(datasets.c.step_id.in_(of_steps)).values(step_id=None))
    tx.run(delete(job_specs).where(job_specs.c.step_id.in_(of_steps)))
    tx.run(delete(steps).where(steps.c.campaign_id == campaign_id))
    tx.run(delete(idempotency_keys).where(idempotency_keys.c.campaign_id == campaign_id))
    tx.run(delete(campaigns).where(campaigns.c.id == campaign_id))


def _odds_and_ends(seconds: float) -> list[Callable[[Transaction], object]]:
    return [
        lambda tx: trigger_runs.forget_before(tx, tx.after(-min(seconds, 7 * DAY))),
        lambda tx: messages.forget_old_redeliveries(tx, DAY),
        lambda tx: tx.run(delete(enrolments).where(enrolments.c.expires_at < tx.after(-DAY))),
        lambda tx: tx.run(delete(tokens).where(tokens.c.expires_at < tx.after(-seconds))),
        lambda tx: instances.forget_silent(tx, DAY),
    ]
