"""Campaigns as their VO sees them: lists, and one with its steps and counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, func, select

from pipeline.errors import Forbidden, NotFound
from pipeline.store.access import Caller
from pipeline.store.database import Transaction
from pipeline.store.tables import campaigns, datasets, files, identities, jobs, steps
from schemas.api import CampaignSummary, CampaignView, Role, StepView
from schemas.states import CampaignState, JobState, StepState


@dataclass(frozen=True, slots=True)
class CampaignFilter:
    """Which campaigns are wanted; what is None or empty does not narrow."""

    states: tuple[CampaignState, ...] = ()
    name: str | None = None
    owner: str | None = None


def list_campaigns(
    tx: Transaction, vo_id: int, wanted: CampaignFilter, *, after: int | None, most: int
) -> list[CampaignSummary]:
    """Up to `most` campaigns of a VO with an id below `after`, the newest first."""
    query = _visible(vo_id)
    if wanted.states:
        query = query.where(campaigns.c.state.in_(wanted.states))
    if wanted.name is not None:
        query = query.where(campaigns.c.name == wanted.name)
    if wanted.owner is not None:
        query = query.where(identities.c.subject == wanted.owner)
    if after is not None:
        query = query.where(campaigns.c.id < after)
    return [_summary(row) for row in tx.rows(query.order_by(campaigns.c.id.desc()).limit(most))]


def show_campaign(tx: Transaction, vo_id: int, campaign_id: int) -> CampaignView:
    """A campaign with every version of its steps. Raises NotFound."""
    return CampaignView(**summarise_campaign(tx, vo_id, campaign_id).model_dump(), steps=tuple(_steps(tx, campaign_id)))


def summarise_campaign(tx: Transaction, vo_id: int, campaign_id: int) -> CampaignSummary:
    """A campaign without its steps. Raises NotFound."""
    return _summary(_row(tx, vo_id, campaign_id))


def require_command(tx: Transaction, caller: Caller, campaign_id: int) -> None:
    """A command is for the campaign's owner and for operators. Raises NotFound, Forbidden."""
    row = _row(tx, caller.vo_id, campaign_id)
    if caller.role is not Role.OPERATOR and row.owner_id != caller.identity_id:
        raise Forbidden(f"campaign {campaign_id} belongs to {row.subject}; ask its owner or an operator")


def _row(tx: Transaction, vo_id: int, campaign_id: int) -> Row[Any]:
    row = tx.first(_visible(vo_id).where(campaigns.c.id == campaign_id))
    if row is None:
        raise NotFound(f"there is no campaign {campaign_id} in your VO; `penstock campaigns list` shows them")
    return row


def _visible(vo_id: int) -> Select[Any]:
    return (
        select(
            campaigns.c.id,
            campaigns.c.name,
            campaigns.c.state,
            campaigns.c.created_at,
            campaigns.c.ended_at,
            campaigns.c.owner_id,
            identities.c.subject,
        )
        .join(identities, identities.c.id == campaigns.c.owner_id)
        .where(campaigns.c.vo_id == vo_id, campaigns.c.state != CampaignState.ARRIVING)
    )


def _summary(row: Row[Any]) -> CampaignSummary:
    return CampaignSummary(
        id=row.id,
        name=row.name,
        state=CampaignState(row.state),
        owner=row.subject,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def _steps(tx: Transaction, campaign_id: int) -> Sequence[StepView]:
    query = (
        select(steps, datasets.c.name.label("dataset"), datasets.c.id.label("dataset_id"))
        .outerjoin(datasets, datasets.c.step_id == steps.c.id)
        .where(steps.c.campaign_id == campaign_id)
        .order_by(steps.c.position, steps.c.version)
    )
    rows = tx.rows(query)
    counts = _job_counts(tx, [row.id for row in rows])
    registered = _file_counts(tx, [row.dataset_id for row in rows if row.dataset_id is not None])
    return [
        StepView(
            name=row.name,
            version=row.version,
            state=StepState(row.state),
            after=tuple(row.after),
            min_success=row.min_success,
            jobs=dict(counts[row.id]),
            ended_at=row.ended_at,
            dataset=row.dataset,
            files=registered.get(row.dataset_id, 0),
        )
        for row in rows
    ]


def _job_counts(tx: Transaction, step_ids: Sequence[int]) -> Mapping[int, dict[JobState, int]]:
    query = (
        select(jobs.c.step_id, jobs.c.state, func.count().label("many"))
        .where(jobs.c.step_id.in_(step_ids))
        .group_by(jobs.c.step_id, jobs.c.state)
    )
    counts: defaultdict[int, dict[JobState, int]] = defaultdict(dict)
    for row in tx.rows(query):
        counts[row.step_id][JobState(row.state)] = row.many
    return counts


def _file_counts(tx: Transaction, dataset_ids: Sequence[int]) -> Mapping[int, int]:
    query = (
        select(files.c.dataset_id, func.count().label("many"))
        .where(files.c.dataset_id.in_(dataset_ids))
        .group_by(files.c.dataset_id)
    )
    return {row.dataset_id: row.many for row in tx.rows(query)}
