"""The pure part of optimisation: what to ask the database, and what becomes of each job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from executors.optimisation.chain import Candidate, Killed, Optimiser, Verdict, judge
from executors.optimisation.input_data import logical_names, step_files
from executors.optimisation.sanity import template_problem
from pipeline.store.jobs import JobRow
from pipeline.store.optimisation import Facts, Wanted
from pipeline.store.specs import Spec
from schemas.states import JobState


@dataclass(frozen=True, slots=True)
class Ignored:
    """It is not `received` any more: somebody else dealt with it."""


@dataclass(frozen=True, slots=True)
class Asleep:
    """Its campaign or step does not run: it stays received, and no message names it until that changes."""


Decision = Verdict | Ignored | Asleep


def wanted_facts(found: Sequence[JobRow], specs: Mapping[int, Spec]) -> Wanted:
    """What the chain needs to know about these jobs."""
    sound = {spec_id for spec_id, spec in specs.items() if template_problem(spec.template) is None}
    reading = [job for job in found if job.spec_id in sound and specs[job.spec_id].template.inputs]
    owned = {(job.vo_id, job.spec_id) for job in found}
    return Wanted(
        vo_ids=frozenset(vo_id for vo_id, _ in owned),
        sandboxes=frozenset(
            (vo_id, specs[spec_id].sandbox or "") for vo_id, spec_id in owned if specs[spec_id].sandbox
        ),
        files=frozenset((job.vo_id, lfn) for job in reading for lfn in logical_names(job, specs[job.spec_id])),
        step_files=frozenset(key for job in reading for key in step_files(job, specs[job.spec_id])),
    )


def due(found: Sequence[JobRow], running_steps: frozenset[int]) -> list[JobRow]:
    """The jobs that the chain is to judge."""
    return [
        job
        for job in found
        if job.state is JobState.RECEIVED and not job.kill_requested and job.step_id in running_steps
    ]


def decide(
    chain: Sequence[Optimiser],
    facts: Facts,
    found: Sequence[JobRow],
    specs: Mapping[int, Spec],
    running_steps: frozenset[int],
) -> list[tuple[JobRow, Decision]]:
    """One decision for each job."""
    candidates = [Candidate(job, specs[job.spec_id]) for job in due(found, running_steps)]
    verdicts = judge(chain, facts, candidates)
    return [(job, verdicts.get(job.id) or _aside(job)) for job in found]


def _aside(job: JobRow) -> Decision:
    if job.state is not JobState.RECEIVED:
        return Ignored()
    return Killed("killed on request") if job.kill_requested else Asleep()
