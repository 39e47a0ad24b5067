"""Losing attempts: whatever they wrote is to be deleted once nobody can be writing it any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select, update

from pipeline.store import specs
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.tables import deletions, site_storages, storages, vos
from schemas.paths import attempt_folder

GRACE = 3_600
"""Seconds until the folder of a losing attempt is deleted: a pilot thought lost may still be writing."""


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """One attempt that ended without winning."""

    job_id: int
    attempt: int
    spec_id: int
    vo_id: int
    site_id: int | None


@dataclass(frozen=True, slots=True)
class Deletion:
    """A folder that is due; `path` is relative to the storage's root."""

    id: int
    storage_id: int
    path: str


def doom(tx: Transaction, lost: Sequence[LostAttempt]) -> None:
    """Note the folders of these attempts for deletion; templates without outputs leave nothing behind."""
    templates = specs.load(tx, {attempt.spec_id for attempt in lost})
    writing = [attempt for attempt in lost if templates[attempt.spec_id].template.outputs]
    if not writing:
        return
    by_name = {row.name: row.id for row in tx.rows(select(storages.c.id, storages.c.name))}
    of_site = _first_storages(tx, {a.site_id for a in writing if a.site_id is not None})
    vo_names = {row.id: row.name for row in tx.rows(select(vos.c.id, vos.c.name))}
    rows = []
    for attempt in writing:
        spec = templates[attempt.spec_id]
        named = spec.template.storage
        storage_id = of_site.get(attempt.site_id or 0) if named is None else by_name.get(named)
        if storage_id is not None:
            folder = attempt_folder(
                vo_names[attempt.vo_id], spec.campaign_id, spec.template.name, attempt.job_id, attempt.attempt
            )
            rows.append({"storage_id": storage_id, "path": folder, "due_at": tx.after(GRACE)})
    tx.add_all(deletions, rows)


def due(tx: Transaction, most: int) -> list[Deletion]:
    """Up to `most` folders whose grace is over, locked."""
    query = select(deletions.c.id, deletions.c.storage_id, deletions.c.path)
    found = tx.lock(
        query.where(deletions.c.due_at <= tx.now).order_by(deletions.c.due_at).limit(most), skip_locked=True
    )
    return [Deletion(row.id, row.storage_id, row.path) for row in found]


def put_off(tx: Transaction, ids: Sequence[int], seconds: float) -> None:
    """Their storage is down: others' folders come first."""
    for chunk in in_chunks(ids):
        tx.run(update(deletions).where(deletions.c.id.in_(chunk)).values(due_at=tx.after(seconds)))


def forget(tx: Transaction, ids: Sequence[int]) -> None:
    """These folders are gone."""
    for chunk in in_chunks(ids):
        tx.run(delete(deletions).where(deletions.c.id.in_(chunk)))


def _first_storages(tx: Transaction, site_ids: set[int]) -> dict[int, int]:
    query = select(site_storages.c.site_id, site_storages.c.storage_id).where(site_storages.c.site_id.in_(site_ids))
    first: dict[int, int] = {}
    for row in tx.rows(query.order_by(site_storages.c.position)):
        first.setdefault(row.site_id, row.storage_id)
    return first
