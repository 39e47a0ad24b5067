"""The catalogue as its VO sees it: files with the URLs of their replicas; and who has which sandbox."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, select

from pipeline.store.database import Transaction
from pipeline.store.tables import datasets, files, replicas, sandboxes, storages
from schemas.api import FileView, ReplicaView

_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class FileFilter:
    """Which files are wanted; what is None does not narrow."""

    prefix: str | None = None
    """What the logical name begins with."""
    dataset: str | None = None


def list_files(tx: Transaction, vo_id: int, wanted: FileFilter, *, after: int, most: int) -> list[FileView]:
    """Up to `most` files of a VO with an id above `after`, by id."""
    query = _query().where(files.c.vo_id == vo_id, files.c.id > after)
    if wanted.prefix is not None:
        query = query.where(files.c.lfn >= wanted.prefix, files.c.lfn < wanted.prefix + _LAST)
    if wanted.dataset is not None:
        query = query.where(datasets.c.name == wanted.dataset)
    return _views(tx, tx.rows(query.order_by(files.c.id).limit(most)))


def files_of_job(tx: Transaction, job_id: int) -> list[FileView]:
    """The registered outputs of a job."""
    return _views(tx, tx.rows(_query().where(files.c.job_id == job_id).order_by(files.c.id)))


def note_sandbox(tx: Transaction, vo_id: int, digest: str, size: int) -> None:
    """A sandbox is in the store now; noting it again changes nothing."""
    tx.add_missing(sandboxes, [{"vo_id": vo_id, "digest": digest, "size": size, "created_at": tx.now}])


def sandbox_size(tx: Transaction, vo_id: int, digest: str) -> int | None:
    """The size of a VO's sandbox in bytes, None when it was not uploaded."""
    size = tx.scalar(select(sandboxes.c.size).where(sandboxes.c.vo_id == vo_id, sandboxes.c.digest == digest))
    return None if size is None else int(size)


def _query() -> Select[Any]:
    return select(files, datasets.c.name.label("dataset")).outerjoin(datasets, datasets.c.id == files.c.dataset_id)


def _views(tx: Transaction, rows: Sequence[Row[Any]]) -> list[FileView]:
    copies = _replicas(tx, [row.id for row in rows])
    return [
        FileView(
            id=row.id,
            lfn=row.lfn,
            name=row.name,
            size=row.size,
            adler32=row.adler32,
            dataset=row.dataset,
            job_id=row.job_id,
            created_at=row.created_at,
            replicas=tuple(copies.get(row.id, ())),
        )
        for row in rows
    ]


def _replicas(tx: Transaction, file_ids: Sequence[int]) -> Mapping[int, list[ReplicaView]]:
    query = (
        select(replicas.c.file_id, replicas.c.path, replicas.c.state, storages.c.name, storages.c.url)
        .join(storages, storages.c.id == replicas.c.storage_id)
        .where(replicas.c.file_id.in_(file_ids))
        .order_by(replicas.c.file_id, replicas.c.storage_id)
    )
    found: defaultdict[int, list[ReplicaView]] = defaultdict(list)
    for row in tx.rows(query):
        url = f"{row.url.rstrip('/')}/{row.path}"
        found[row.file_id].append(ReplicaView(storage=row.name, url=url, state=row.state))
    return found
