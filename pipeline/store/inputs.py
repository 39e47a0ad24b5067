"""Input files of assigned jobs, with the URLs of their replicas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from posixpath import basename
from typing import Any

from sqlalchemy import Row, select

from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import JobRow
from pipeline.store.outputs import site_storage_ids, storage_roots, url_of
from pipeline.store.specs import Spec
from pipeline.store.tables import datasets, files, replicas, steps
from schemas.campaign import StepInput, render
from schemas.pilots import InputFile

_FILE = (files.c.id, files.c.lfn, files.c.size, files.c.adler32)


def input_files(
    tx: Transaction, found: Sequence[JobRow], templates: Mapping[int, Spec], site_id: int
) -> Mapping[int, list[InputFile]]:
    """The input files of each job, by job id; replicas on the site's own storages come first."""
    wanted = {job.id: _rows(tx, job, templates[job.spec_id]) for job in found}
    urls = _urls(tx, {row.id for rows in wanted.values() for row in rows}, site_id)
    return {job_id: [_file(row, urls) for row in rows] for job_id, rows in wanted.items()}


def _rows(tx: Transaction, job: JobRow, spec: Spec) -> list[Row[Any]]:
    values = spec.values(job.array_index)
    names = [render(entry, values) for entry in spec.template.inputs if isinstance(entry, str)]
    found: dict[int, Row[Any]] = {}
    if names:
        query = select(*_FILE).where(files.c.vo_id == job.vo_id, files.c.lfn.in_(names))
        found |= {row.id: row for row in tx.rows(query)}
    for entry in spec.template.inputs:
        if isinstance(entry, StepInput):
            query = (
                select(*_FILE)
                .join(datasets, datasets.c.id == files.c.dataset_id)
                .join(steps, steps.c.id == datasets.c.step_id)
                .where(steps.c.campaign_id == job.campaign_id, steps.c.name == entry.step)
            )
            if entry.name is not None:
                query = query.where(files.c.name == entry.name)
            found |= {row.id: row for row in tx.rows(query)}
    return list(found.values())


def _urls(tx: Transaction, file_ids: Iterable[int], site_id: int) -> Mapping[int, list[str]]:
    own = {storage_id: place for place, storage_id in enumerate(site_storage_ids(tx, site_id))}
    roots = storage_roots(tx)
    copies: defaultdict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for chunk in in_chunks(sorted(set(file_ids))):
        query = select(replicas.c.file_id, replicas.c.storage_id, replicas.c.path)
        for row in tx.rows(query.where(replicas.c.file_id.in_(chunk), replicas.c.state != "lost")):
            place = own.get(row.storage_id, len(own))
            copies[row.file_id].append((place, row.storage_id, url_of(roots[row.storage_id], row.path)))
    return {file_id: [url for _, _, url in sorted(found)] for file_id, found in copies.items()}


def _file(row: Row[Any], urls: Mapping[int, list[str]]) -> InputFile:
    return InputFile(
        lfn=row.lfn, name=basename(row.lfn), size=row.size, adler32=row.adler32, urls=tuple(urls.get(row.id, ()))
    )
