"""What a pilot is told of an assignment: the template with its parameters filled in, and URLs for its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pipeline.store import specs
from pipeline.store.database import Transaction
from pipeline.store.inputs import input_files
from pipeline.store.jobs import JobRow
from pipeline.store.outputs import Places, output_paths, places, url_of
from pipeline.store.pilots import PilotRow
from pipeline.store.specs import Spec
from schemas.campaign import render
from schemas.pilots import Assignment, InputFile, OutputTarget


def assignments(tx: Transaction, given: Sequence[tuple[PilotRow, Sequence[JobRow]]]) -> list[tuple[Assignment, ...]]:
    """The assignments of pilots' matched jobs, in their order."""
    found = [job for _, of_pilot in given for job in of_pilot]
    if not found:
        return [() for _ in given]
    templates = specs.load(tx, {job.spec_id for job in found})
    inputs = _inputs(tx, given, templates)
    known = places(tx, {pilot.site_id for pilot, _ in given})
    return [
        tuple(_assignment(pilot, job, templates[job.spec_id], inputs[job.id], known) for job in of_pilot)
        for pilot, of_pilot in given
    ]


def _inputs(
    tx: Transaction, given: Sequence[tuple[PilotRow, Sequence[JobRow]]], templates: Mapping[int, Spec]
) -> Mapping[int, Sequence[InputFile]]:
    """By job; read for all jobs of a site at a time, since its own replicas come first."""
    at_site: defaultdict[int, list[JobRow]] = defaultdict(list)
    for pilot, of_pilot in given:
        at_site[pilot.site_id] += of_pilot
    return {
        job_id: files
        for site_id, found in at_site.items()
        for job_id, files in input_files(tx, found, templates, site_id).items()
    }


def _assignment(pilot: PilotRow, job: JobRow, spec: Spec, inputs: Sequence[InputFile], known: Places) -> Assignment:
    template = spec.template
    wanted = template.requirements.specifications()[job.alternative or 0]
    cores = job.cores or wanted.min_cores  # release 0.2.0 notes no grant
    values = spec.values(job.array_index)
    root = known.root_for(template.storage, pilot.site_id)
    paths = {} if root is None else output_paths(pilot.vo, job, spec)
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
        image=template.image,
        stop_signal=template.stop.signal,
        stop_grace=template.stop.grace,
    )
