"""Input files of assigned jobs, with the URLs of their replicas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from posixpath import basename
from typing import Any

from sqlalchemy import ColumnElement, Row, or_, select

from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import JobRow
from pipeline.store.outputs import places, url_of
from pipeline.store.specs import Spec
from pipeline.store.tables import datasets, files, replicas, steps
from schemas.campaign import StepInput, render
from schemas.pilots import InputFile

_FILE = (files.c.id, files.c.lfn, files.c.size, files.c.adler32)
_WANTS = 100
"""Conditions in one query: SQLite parses a chain of OR up to a depth of 1,000."""


def input_files(
    tx: Transaction, found: Sequence[JobRow], templates: Mapping[int, Spec], site_id: int
) -> Mapping[int, list[InputFile]]:
    """The input files of each job, by job id; replicas on the site's own storages come first."""
    wanted = {job.id: _wanted(job, templates[job.spec_id]) for job in found}
    rows = _named(tx, wanted.values()) | _made(tx, wanted.values())
    if not rows:
        return {job_id: [] for job_id in wanted}
    chosen = {
        job_id: _distinct(row for want in wants for row in rows.get(want, ())) for job_id, wants in wanted.items()
    }
    urls = _urls(tx, {row.id for files_of_job in chosen.values() for row in files_of_job}, site_id)
    return {job_id: [_file(row, urls) for row in files_of_job] for job_id, files_of_job in chosen.items()}


@dataclass(frozen=True, slots=True)
class _Named:
    """The file of a logical name."""

    vo_id: int
    lfn: str


@dataclass(frozen=True, slots=True)
class _Made:
    """The outputs of a step, or those of one file name."""

    campaign_id: int
    step: str
    name: str | None


_Want = _Named | _Made


def _wanted(job: JobRow, spec: Spec) -> list[_Want]:
    values = spec.values(job.array_index)
    return [
        _Made(job.campaign_id, entry.step, entry.name)
        if isinstance(entry, StepInput)
        else _Named(job.vo_id, render(entry, values))
        for entry in spec.template.inputs
    ]


def _named(tx: Transaction, wanted: Iterable[Sequence[_Want]]) -> dict[_Want, list[Row[Any]]]:
    names: defaultdict[int, set[str]] = defaultdict(set)
    for want in chain.from_iterable(wanted):
        if isinstance(want, _Named):
            names[want.vo_id].add(want.lfn)
    return {
        _Named(vo_id, row.lfn): [row]
        for vo_id, lfns in names.items()
        for chunk in in_chunks(sorted(lfns))
        for row in tx.rows(select(*_FILE).where(files.c.vo_id == vo_id, files.c.lfn.in_(chunk)))
    }


def _made(tx: Transaction, wanted: Iterable[Sequence[_Want]]) -> dict[_Want, list[Row[Any]]]:
    """One query for all that differ: jobs of one template want the same of the steps before."""
    distinct = sorted({want for want in chain.from_iterable(wanted) if isinstance(want, _Made)}, key=repr)
    found: defaultdict[_Want, list[Row[Any]]] = defaultdict(list)
    for chunk in in_chunks(distinct, _WANTS):
        query = (
            select(*_FILE, files.c.name, steps.c.campaign_id, steps.c.name.label("step"))
            .join(datasets, datasets.c.id == files.c.dataset_id)
            .join(steps, steps.c.id == datasets.c.step_id)
            .where(or_(*(_is_made(want) for want in chunk)))
            .order_by(files.c.id)
        )
        for row in tx.rows(query):
            by_name, all_of_step = _Made(row.campaign_id, row.step, row.name), _Made(row.campaign_id, row.step, None)
            for want in {by_name, all_of_step}.intersection(chunk):
                found[want].append(row)
    return found


def _is_made(want: _Made) -> ColumnElement[bool]:
    made = (steps.c.campaign_id == want.campaign_id) & (steps.c.name == want.step)
    return made if want.name is None else made & (files.c.name == want.name)


def _distinct(rows: Iterable[Row[Any]]) -> list[Row[Any]]:
    return list({row.id: row for row in rows}.values())


def _urls(tx: Transaction, file_ids: Iterable[int], site_id: int) -> Mapping[int, list[str]]:
    known = places(tx, [site_id])
    own = {storage_id: place for place, storage_id in enumerate(known.own.get(site_id, ()))}
    copies: defaultdict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for chunk in in_chunks(sorted(set(file_ids))):
        query = select(replicas.c.file_id, replicas.c.storage_id, replicas.c.path)
        for row in tx.rows(query.where(replicas.c.file_id.in_(chunk), replicas.c.state != "lost")):
            place = own.get(row.storage_id, len(own))
            copies[row.file_id].append((place, row.storage_id, url_of(known.roots[row.storage_id], row.path)))
    return {file_id: [url for _, _, url in sorted(found)] for file_id, found in copies.items()}


def _file(row: Row[Any], urls: Mapping[int, list[str]]) -> InputFile:
    return InputFile(
        lfn=row.lfn, name=basename(row.lfn), size=row.size, adler32=row.adler32, urls=tuple(urls.get(row.id, ()))
    )
