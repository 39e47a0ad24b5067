"""Whether a job's input files are there, and which sites have them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from executors.optimisation.chain import Candidate, Held, Verdict
from pipeline.store.jobs import JobRow
from pipeline.store.optimisation import Facts, StepFilesKey
from pipeline.store.specs import Spec
from schemas.campaign import StepInput, render


def logical_names(job: JobRow, spec: Spec) -> list[str]:
    """The catalogue files that the job names itself."""
    entries = [entry for entry in spec.template.inputs if isinstance(entry, str)]
    if not entries:
        return []
    values = spec.values(job.array_index)
    return [render(entry, values) for entry in entries]


def step_files(job: JobRow, spec: Spec) -> list[StepFilesKey]:
    """The outputs of earlier steps that the job reads."""
    entries = [entry for entry in spec.template.inputs if isinstance(entry, StepInput)]
    return [StepFilesKey(job.campaign_id, entry.step, entry.name) for entry in entries]


def locate(facts: Facts, candidates: Sequence[Candidate]) -> list[Verdict]:
    """Hold what lacks an input; narrow the others to the sites that have every input."""
    return [_located(facts, candidate) if candidate.spec.template.inputs else candidate for candidate in candidates]


def _located(facts: Facts, candidate: Candidate) -> Verdict:
    sites = candidate.sites
    for name, at in _places(facts, candidate):
        if at is None:
            return Held(f"input data not available: {name}")
        sites = at if sites is None else sites & at
        if not sites:
            return Held(f"input data not available: no site has {name} together with the other inputs")
    return replace(candidate, sites=sites)


def _places(facts: Facts, candidate: Candidate) -> Iterator[tuple[str, frozenset[str] | None]]:
    """Each input with the sites that have it; None where no usable replica is known."""
    job, spec = candidate.job, candidate.spec
    for lfn in logical_names(job, spec):
        yield lfn, facts.files.get((job.vo_id, lfn))
    for key in step_files(job, spec):
        found = facts.step_files[key]
        what = f"outputs of step {key.step}" + ("" if key.name is None else f" named {key.name}")
        if found.unavailable is not None:
            yield found.unavailable, None
        yield what, found.sites if found.count else None
