"""Whether any site queue of the VO can run a job: what fits, minus what is banned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from executors.optimisation.chain import Candidate, Held, Verdict, narrowed
from pipeline.store.optimisation import Facts
from schemas.placement import QueueOffer, unplaceable

_Key = tuple[int, int, frozenset[str] | None]


def place(facts: Facts, candidates: Sequence[Candidate]) -> list[Verdict]:
    """Hold what no site queue can run now. Sites that narrow nothing are forgotten, so that such jobs stay alike."""
    known: dict[_Key, frozenset[str] | Held | None] = {}
    verdicts: list[Verdict] = []
    for candidate in candidates:
        key = (candidate.job.vo_id, candidate.spec.id, candidate.sites)
        if key not in known:
            offers = facts.offers.get(candidate.job.vo_id, ())
            known[key] = _placed(candidate, offers)
        found = known[key]
        verdicts.append(found if isinstance(found, Held) else replace(candidate, sites=found))
    return verdicts


def _placed(candidate: Candidate, offers: Sequence[QueueOffer]) -> frozenset[str] | Held | None:
    template, sites = candidate.spec.template, candidate.sites
    requirement = template.requirements
    if sites is not None and sites >= {offer.resource.site for offer in offers}:
        sites = None
    wanted = requirement if sites is None else narrowed(requirement, sites)
    if wanted is None:
        own = sorted({site for one in requirement.specifications() for site in one.sites})
        return Held(
            f"no site can run it: its inputs are at {', '.join(sorted(sites or ()))}, its sites are {', '.join(own)}"
        )
    reason = unplaceable(wanted, offers, template.job_type)
    return sites if reason is None else Held(reason)
