"""Where an attempt may write, and whether what its pilot reports lies there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sqlalchemy import select

from pipeline.store.database import Transaction
from pipeline.store.jobs import JobRow
from pipeline.store.specs import Spec
from pipeline.store.tables import site_storages, storages
from schemas.campaign import render
from schemas.paths import attempt_folder
from schemas.pilots import ReportedOutput


@dataclass(frozen=True, slots=True)
class Written:
    """One reported file, as a path below a storage's root."""

    name: str
    storage_id: int
    path: str
    size: int
    adler32: str

    def columns(self) -> dict[str, Any]:
        """Its columns of `reported_outputs`."""
        return {name: getattr(self, name) for name in type(self).__slots__}


@dataclass(frozen=True, slots=True)
class Places:
    """Storages: root URLs by id, ids by name, and each site's own, its first one first."""

    roots: Mapping[int, str]
    by_name: Mapping[str, int]
    own: Mapping[int, Sequence[int]]

    def root_for(self, storage: str | None, site_id: int) -> str | None:
        """The root of the named storage, or of the site's first; None where there is none any more."""
        storage_id = self.by_name.get(storage) if storage is not None else next(iter(self.own.get(site_id, ())), None)
        return None if storage_id is None else self.roots[storage_id]


def places(tx: Transaction, site_ids: Iterable[int]) -> Places:
    """Every storage, and those that belong to these sites."""
    rows = tx.rows(select(storages.c.id, storages.c.name, storages.c.url))
    own: defaultdict[int, list[int]] = defaultdict(list)
    query = select(site_storages.c.site_id, site_storages.c.storage_id).order_by(site_storages.c.position)
    for row in tx.rows(query.where(site_storages.c.site_id.in_(set(site_ids)))):
        own[row.site_id].append(row.storage_id)
    return Places({row.id: row.url for row in rows}, {row.name: row.id for row in rows}, own)


def storage_roots(tx: Transaction) -> Mapping[int, str]:
    """The root URL of every storage, by id."""
    return {row.id: row.url for row in tx.rows(select(storages.c.id, storages.c.url))}


def url_of(root: str, path: str) -> str:
    """The URL of a path below a storage's root."""
    return f"{root.rstrip('/')}/{quote(path)}"


def output_paths(vo: str, job: JobRow, spec: Spec) -> Mapping[str, str]:
    """The declared outputs of a job and where its present attempt may write each, relative to a storage's root.

    A name that its parameters turned into another folder is left out: the attempt then lacks an output and fails.
    """
    folder = attempt_folder(vo, spec.campaign_id, spec.template.name, job.id, job.attempt)
    names = _declared(job, spec)
    return {name: f"{folder}/{name}" for name in names if "/" not in name and name not in {"", ".", ".."}}


def attempt_outputs(
    vo: str, job: JobRow, spec: Spec, reported: Sequence[ReportedOutput], roots: Mapping[int, str]
) -> tuple[Written, ...] | str:
    """What an attempt wrote, or what is wrong with it: a file is missing, not declared, or lies elsewhere."""
    allowed = output_paths(vo, job, spec)
    written: dict[str, Written] = {}
    for output in reported:
        if output.name not in allowed:
            return f"it reported the output {output.name!r}, which the job does not declare"
        path = allowed[output.name]
        below = f"/{quote(path)}"
        holders = [i for i, root in roots.items() if output.url == root.rstrip("/") + below]
        if not holders:
            return f"the output {output.name} was written to {output.url}, not where this attempt may write"
        written[output.name] = Written(output.name, holders[0], path, output.size, output.adler32)
    missing = [name for name in _declared(job, spec) if name not in written]
    if missing:
        return f"declared outputs are missing: {', '.join(missing)}"
    return tuple(written.values())


def _declared(job: JobRow, spec: Spec) -> list[str]:
    values = spec.values(job.array_index)
    return [render(template, values) for template in spec.template.outputs]
