"""Job templates: one row for all jobs of a step's array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import select

from pipeline.store.database import Transaction
from pipeline.store.tables import campaigns, identities, job_specs, steps
from schemas.campaign import Scalars, Step


@dataclass(frozen=True, slots=True)
class Spec:
    """A template with the names and the share bucket that its jobs belong to."""

    id: int
    step_id: int
    template: Step
    sandbox: str | None
    """sha256 of the input sandbox."""
    campaign_id: int
    campaign: str
    owner_id: int
    group_id: int

    def values(self, index: int) -> Scalars:
        """The parameters of job `index` of the array."""
        return self.template.values(index, self.campaign)


def load(tx: Transaction, ids: Iterable[int]) -> Mapping[int, Spec]:
    """The templates of these ids."""
    wanted = set(ids)
    if not wanted:
        return {}
    query = (
        select(
            job_specs.c.id,
            job_specs.c.step_id,
            job_specs.c.template,
            job_specs.c.sandbox,
            campaigns.c.id.label("campaign_id"),
            campaigns.c.name,
            campaigns.c.owner_id,
            identities.c.group_id,
        )
        .join(steps, steps.c.id == job_specs.c.step_id)
        .join(campaigns, campaigns.c.id == steps.c.campaign_id)
        .join(identities, identities.c.id == campaigns.c.owner_id)
        .where(job_specs.c.id.in_(wanted))
    )
    return {
        row.id: Spec(
            id=row.id,
            step_id=row.step_id,
            template=_parsed(row.template),
            sandbox=row.sandbox,
            campaign_id=row.campaign_id,
            campaign=row.name,
            owner_id=row.owner_id,
            group_id=row.group_id,
        )
        for row in tx.rows(query)
    }


@lru_cache(maxsize=256)
def _parsed(text: str) -> Step:
    return Step.model_validate_json(text)
