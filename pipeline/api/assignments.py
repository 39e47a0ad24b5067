"""What a pilot is told of an assignment: the template with its parameters filled in, and URLs for its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.store import specs
from pipeline.store.database import Transaction
from pipeline.store.inputs import input_files
from pipeline.store.jobs import JobRow
from pipeline.store.outputs import output_paths, site_storage_ids, storage_ids, storage_roots, url_of
from pipeline.store.pilots import PilotRow
from pipeline.store.specs import Spec
from schemas.campaign import render
from schemas.pilots import Assignment, InputFile, OutputTarget


def assignments(tx: Transaction, pilot: PilotRow, found: Sequence[JobRow]) -> tuple[Assignment, ...]:
    """The assignments of a pilot's matched jobs, in their order."""
    if not found:
        return ()
    templates = specs.load(tx, {job.spec_id for job in found})
    inputs = input_files(tx, found, templates, pilot.site_id)
    places = _Places(storage_roots(tx), storage_ids(tx), site_storage_ids(tx, pilot.site_id))
    return tuple(_assignment(pilot.vo, job, templates[job.spec_id], inputs[job.id], places) for job in found)


@dataclass(frozen=True, slots=True)
class _Places:
    """Storages: root URLs by id, ids by name, and the site's own, its first one first."""

    roots: Mapping[int, str]
    by_name: Mapping[str, int]
    own: Sequence[int]

    def root_for(self, storage: str | None) -> str | None:
        """The root of the named storage, or of the site's first; None where there is none any more."""
        storage_id = self.by_name.get(storage) if storage is not None else next(iter(self.own), None)
        return None if storage_id is None else self.roots[storage_id]


def _assignment(vo: str, job: JobRow, spec: Spec, inputs: Sequence[InputFile], places: _Places) -> Assignment:
    template = spec.template
    wanted = template.requirements.specifications()[job.alternative or 0]
    cores = job.cores or wanted.min_cores  # release 0.2.0 notes no grant
    values = spec.values(job.array_index)
    root = places.root_for(template.storage)
    paths = {} if root is None else output_paths(vo, job, spec)
    return Assignment(
        job_id=job.id,
        attempt=job.attempt,
        command=tuple(render(part, values) for part in template.command),
        environment={name: render(value, values) for name, value in template.environment.items()},
        sandbox=spec.sandbox,
        inputs=tuple(inputs),
        outputs=tuple(OutputTarget(name=name, url=url_of(root or "", path)) for name, path in paths.items()),
        archive=tuple(render(pattern, values) for pattern in template.archive),
        cores=cores,
        memory=wanted.memory_limit_for(cores),
        disk=wanted.disk,
        wall_time=wanted.wall_time,
        gpus=wanted.least.gpus if job.gpus is None else job.gpus,
    )
