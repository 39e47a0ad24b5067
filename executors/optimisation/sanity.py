"""Whether a job makes sense at all: its sandbox is there, its templates can be filled in, its storage exists."""

from __future__ import annotations

from collections.abc import Sequence

from executors.optimisation.chain import Candidate, Failed, Verdict
from pipeline.store.optimisation import Facts
from pipeline.store.specs import Spec
from schemas.campaign import Step, placeholders


def check(facts: Facts, candidates: Sequence[Candidate]) -> list[Verdict]:
    """Fail what can never run."""
    reasons: dict[tuple[int, int], str | None] = {}
    verdicts: list[Verdict] = []
    for candidate in candidates:
        key = (candidate.job.vo_id, candidate.spec.id)
        if key not in reasons:
            reasons[key] = _reason(facts, candidate.job.vo_id, candidate.spec)
        reason = reasons[key]
        verdicts.append(candidate if reason is None else Failed(reason))
    return verdicts


def template_problem(template: Step) -> str | None:
    """Why the strings of a template can't be filled in; its jobs share the names of their parameters."""
    known = set(template.values(0))
    for text in template.templates():
        try:
            unknown = placeholders(text) - known
        except ValueError as error:
            return str(error)
        if unknown:
            return f"unknown parameter {{{min(unknown)}}} in {text!r}"
    return None


def _reason(facts: Facts, vo_id: int, spec: Spec) -> str | None:
    if spec.template.sandbox and spec.sandbox is None:
        return "its sandbox was never uploaded; submit it again"
    if spec.sandbox is not None and (vo_id, spec.sandbox) not in facts.sandboxes:
        return f"its sandbox {spec.sandbox} is gone; submit it again"
    storage = spec.template.storage
    if storage is not None and storage not in facts.storages:
        return f"there is no storage {storage!r}; there are {', '.join(sorted(facts.storages)) or 'none'}"
    return template_problem(spec.template)
