"""The chain of optimisers, and the words in which they speak. Others join it by entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points

from pipeline.errors import BadSettings
from pipeline.store.jobs import JobRow
from pipeline.store.optimisation import Facts
from pipeline.store.specs import Spec
from schemas.requirements import Requirement, Specification


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that goes on. `sites` are those that may still run it; None: nothing narrows them so far."""

    job: JobRow
    spec: Spec
    sites: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """It can't run now; it is looked at again when sites or files change."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It can never run as it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class Killed:
    """It shall not run."""

    reason: str


Verdict = Candidate | Held | Failed | Killed
Optimiser = Callable[[Facts, Sequence[Candidate]], Sequence[Verdict]]
"""Judges a batch: one verdict per candidate, in order; pure."""


def narrowed(requirement: Requirement, sites: frozenset[str]) -> Requirement | None:
    """`requirement` with the sites of each alternative narrowed to these; None when that leaves none to any of them.

    An alternative that is left without a site keeps its place, since attempts remember by which one they were granted:
    it bans all of its sites.
    """
    alternatives = requirement.specifications()
    if not any(_kept(one, sites) for one in alternatives):
        return None
    if not requirement.any_of:
        return requirement.model_copy(update=_narrowed(requirement, sites))
    entries = zip(requirement.any_of, alternatives, strict=True)
    own = tuple(entry.model_copy(update=_narrowed(whole, sites)) for entry, whole in entries)
    return requirement.model_copy(update={"any_of": own})


def _kept(specification: Specification, sites: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(sites & set(specification.sites) if specification.sites else sites))


def _narrowed(specification: Specification, sites: frozenset[str]) -> dict[str, tuple[str, ...]]:
    kept = _kept(specification, sites)
    if kept:
        return {"sites": kept, "banned_sites": specification.banned_sites}
    return {"sites": specification.sites, "banned_sites": specification.sites}


def judge(chain: Sequence[Optimiser], facts: Facts, candidates: Sequence[Candidate]) -> Mapping[int, Verdict]:
    """The chain's verdict on each candidate, by job id. Raises ValueError when an optimiser loses one."""
    verdicts: dict[int, Verdict] = {candidate.job.id: candidate for candidate in candidates}
    for optimiser in chain:
        going_on = [verdict for verdict in verdicts.values() if isinstance(verdict, Candidate)]
        if not going_on:
            break
        for before, after in zip(going_on, optimiser(facts, going_on), strict=True):
            if isinstance(after, Candidate) and after.job is not before.job:
                raise ValueError(f"{optimiser} answered about job {after.job.id} when asked about job {before.job.id}")
            verdicts[before.job.id] = after
    return verdicts


@lru_cache
def load_chain(names: tuple[str, ...]) -> tuple[Optimiser, ...]:
    """The optimisers of these entry points, in this order. Raises BadSettings for a name that none has."""
    found = {entry.name: entry for entry in entry_points(group="penstock.optimisers")}
    for name in names:
        if name not in found:
            raise BadSettings(
                f"PENSTOCK_OPTIMISERS: no optimiser is named {name!r}; there are {', '.join(sorted(found))}"
            )
    return tuple(found[name].load() for name in names)
