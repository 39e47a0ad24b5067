"""Files, replicas and what pilots say that they wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select, update

from pipeline.store import specs
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import JobRow
from pipeline.store.tables import datasets, files, replicas, reported_outputs, steps, storages, vos
from pipeline.store.tables import jobs as jobs_table
from schemas.paths import logical_name
from schemas.states import JobState


@dataclass(frozen=True, slots=True)
class StorageRow:
    """A declared storage; `kind` is its entry point, `url` its root."""

    id: int
    name: str
    kind: str
    url: str


@dataclass(frozen=True, slots=True)
class Output:
    """One file as its pilot reported it; `path` is relative to the storage's root, `size` is bytes."""

    name: str
    storage_id: int
    path: str
    size: int
    adler32: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What one attempt of a completing job says that it wrote, and how much of that is to be believed."""

    job_id: int
    attempt: int
    verify: str
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a file of the catalogue, with what the catalogue says of it."""

    file_id: int
    storage_id: int
    path: str
    size: int
    adler32: str


def claims(tx: Transaction, job_ids: Iterable[int]) -> list[Claim]:
    """What the present attempts of those of the jobs that are completing have reported."""
    found: list[Claim] = []
    for chunk in in_chunks(sorted(set(job_ids))):
        query = (
            select(jobs_table.c.id, jobs_table.c.attempt, steps.c.verify)
            .join(steps, steps.c.id == jobs_table.c.step_id)
            .where(jobs_table.c.id.in_(chunk), jobs_table.c.state == JobState.COMPLETING)
        )
        outputs = _outputs(tx, chunk)
        found += [Claim(row.id, row.attempt, row.verify, tuple(outputs[row.id, row.attempt])) for row in tx.rows(query)]
    return found


def storage_rows(tx: Transaction, ids: Iterable[int]) -> Mapping[int, StorageRow]:
    """The storages of these ids."""
    query = select(storages.c.id, storages.c.name, storages.c.kind, storages.c.url).where(storages.c.id.in_(set(ids)))
    return {row.id: StorageRow(row.id, row.name, row.kind, row.url) for row in tx.rows(query)}


def register(tx: Transaction, won: Sequence[tuple[JobRow, Claim]]) -> None:
    """Enter the outputs of winning attempts into the catalogue, each with its one replica."""
    templates = specs.load(tx, {job.spec_id for job, _ in won})
    of_step = _dataset_ids(tx, {job.step_id for job, _ in won})
    vo_names = {row.id: row.name for row in tx.rows(select(vos.c.id, vos.c.name))}
    rows, copies = [], {}
    for job, claim in won:
        spec = templates[job.spec_id]
        for output in claim.outputs:
            lfn = logical_name(vo_names[job.vo_id], spec.campaign_id, spec.template.name, job.array_index, output.name)
            copies[job.vo_id, lfn] = output
            rows.append(
                {
                    "vo_id": job.vo_id,
                    "lfn": lfn,
                    "dataset_id": of_step[job.step_id],
                    "job_id": job.id,
                    "attempt": job.attempt,
                    "name": output.name,
                    "size": output.size,
                    "adler32": output.adler32,
                    "created_at": tx.now,
                }
            )
    tx.add_all(files, rows)
    _add_replicas(tx, [job.id for job, _ in won], copies)


def replicas_of(tx: Transaction, file_ids: Iterable[int]) -> list[Replica]:
    """Every replica of these files that is not known to be lost."""
    query = (
        select(replicas.c.file_id, replicas.c.storage_id, replicas.c.path, files.c.size, files.c.adler32)
        .join(files, files.c.id == replicas.c.file_id)
        .where(replicas.c.file_id.in_(set(file_ids)), replicas.c.state != "lost")
    )
    return [Replica(row.file_id, row.storage_id, row.path, row.size, row.adler32) for row in tx.rows(query)]


def set_replica_states(tx: Transaction, storage_id: int, file_ids: Sequence[int], state: str) -> None:
    """Note what a comparison of these files on one storage has shown, and that their files are dealt with."""
    for chunk in in_chunks(sorted(file_ids)):
        where = (replicas.c.storage_id == storage_id, replicas.c.file_id.in_(chunk))
        tx.run(update(replicas).where(*where).values(state=state, checked_at=tx.now))
        tx.run(update(files).where(files.c.id.in_(chunk)).values(wake_at=None))


def overdue_files(tx: Transaction, most: int) -> list[int]:
    """Up to `most` files whose `wake_at` has passed, locked."""
    query = select(files.c.id).where(files.c.wake_at <= tx.now).order_by(files.c.wake_at).limit(most)
    return [row.id for row in tx.lock(query, skip_locked=True)]


def set_files_wake_at(tx: Transaction, ids: Sequence[int], seconds: float) -> None:
    """Reconcile looks at these files again after so many seconds."""
    for chunk in in_chunks(ids):
        tx.run(update(files).where(files.c.id.in_(chunk)).values(wake_at=tx.after(seconds)))


def unchecked_files(tx: Transaction, seconds: float, most: int) -> list[int]:
    """Up to `most` files with a replica that was last compared longer ago than `seconds`."""
    query = (
        select(replicas.c.file_id)
        .join(files, files.c.id == replicas.c.file_id)
        .where(
            replicas.c.state == "usable",
            replicas.c.checked_at < tx.after(-seconds),
            files.c.wake_at.is_(None),
            files.c.dead_letter_id.is_(None),
        )
        .order_by(replicas.c.file_id)
        .limit(most)
    )
    return [row.file_id for row in tx.rows(query)]


def _outputs(tx: Transaction, job_ids: Sequence[int]) -> defaultdict[tuple[int, int], list[Output]]:
    found: defaultdict[tuple[int, int], list[Output]] = defaultdict(list)
    for row in tx.rows(select(reported_outputs).where(reported_outputs.c.job_id.in_(job_ids))):
        output = Output(row.name, row.storage_id, row.path, row.size, row.adler32)
        found[row.job_id, row.attempt].append(output)
    return found


def _dataset_ids(tx: Transaction, step_ids: set[int]) -> Mapping[int, int]:
    rows = tx.rows(select(datasets.c.id, datasets.c.step_id).where(datasets.c.step_id.in_(step_ids)))
    return {row.step_id: row.id for row in rows}


def _add_replicas(tx: Transaction, job_ids: Sequence[int], copies: Mapping[tuple[int, str], Output]) -> None:
    rows = []
    for chunk in in_chunks(sorted(job_ids)):
        query = select(files.c.id, files.c.vo_id, files.c.lfn).where(files.c.job_id.in_(chunk))
        for row in tx.rows(query):
            output = copies[row.vo_id, row.lfn]
            rows.append(
                {
                    "file_id": row.id,
                    "storage_id": output.storage_id,
                    "path": output.path,
                    "state": "usable",
                    "checked_at": tx.now,
                }
            )
    tx.add_all(replicas, rows)
