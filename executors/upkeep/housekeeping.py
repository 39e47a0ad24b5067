"""The rare duties: losers' folders, replicas to compare, limits to recount, what is too old."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from structlog import get_logger

from executors.data.port import open_storage
from pipeline.errors import PenstockError
from pipeline.runtime.spec import Context
from pipeline.sandboxes import Sandboxes
from pipeline.store import files, losers, releases, retention, usage
from pipeline.store.database import Transaction
from pipeline.store.recount import recount
from schemas.messages import FilesDue, Message, about_ids

MOST = 10_000
REPLICA_AGE = 7 * 86_400.0
"""Seconds after which a replica is compared with its storage again."""
PUT_OFF = 600.0
"""Seconds after which a storage that was down is asked to delete again."""
DAY = 86_400.0

_log = get_logger("upkeep")


def delete_losers(context: Context) -> list[Message]:
    """Delete what losing attempts left behind, one bulk request per storage."""
    due = context.database.transact(lambda tx: losers.due(tx, MOST))
    by_storage: defaultdict[int, list[losers.Deletion]] = defaultdict(list)
    for deletion in due:
        by_storage[deletion.storage_id].append(deletion)
    rows = context.database.transact(lambda tx: files.storage_rows(tx, by_storage))
    for storage_id, deletions in sorted(by_storage.items()):
        try:
            open_storage(rows[storage_id].kind, rows[storage_id].url).delete([d.path for d in deletions])
        except PenstockError as error:
            _log.warning("storage_unavailable", storage=rows[storage_id].name, error=str(error))
            context.database.transact(partial(losers.put_off, ids=[d.id for d in deletions], seconds=PUT_OFF))
            continue
        context.database.transact(partial(losers.forget, ids=[deletion.id for deletion in deletions]))
    return []


def compare_replicas(context: Context) -> list[Message]:
    """Ask for a comparison of replicas that were not looked at for long."""

    def work(tx: Transaction) -> list[Message]:
        ids = files.unchecked_files(tx, REPLICA_AGE, MOST)
        files.set_files_wake_at(tx, ids, context.settings.wake_after)
        return about_ids(FilesDue, ids, now=tx.now)

    return context.database.transact(work)


def count_limits(context: Context) -> list[Message]:
    """Put limits right, and report those that had drifted."""
    for drift in context.database.transact(recount):
        _log.error(
            "limit_drifted",
            limit=drift.name,
            subject_id=drift.subject_id,
            counted=drift.counted,
            rightly=drift.true,
        )
    return []


def book_shares(context: Context) -> list[Message]:
    """Book attempts that have ended, and say all usage as of now."""
    half_life = context.settings.share_half_life
    releases.book_all(context.database, half_life)
    context.database.transact(partial(usage.rebase, half_life=half_life))
    return []


def purge(context: Context) -> list[Message]:
    """Delete what is older than the settings keep, in the database and among sandboxes, archives and outputs."""
    kept = context.settings.retention_days * DAY
    sandboxes = Sandboxes(context.settings.resolved_sandbox_url())

    def forget_archives(doomed: retention.JobsOfVo) -> None:
        for job_id in doomed.ids:
            sandboxes.remove_archives(doomed.vo, job_id)

    retention.purge(context.database, kept, forget_archives)
    for unused in context.database.transact(partial(retention.drop_unused_sandboxes, seconds=kept)):
        sandboxes.remove(unused.vo, unused.digest)
    for pilot in context.database.transact(partial(retention.drop_ended_pilots, seconds=kept)):
        sandboxes.remove_pilot_output(pilot.vo, pilot.id)
    return []
