"""A VO's policy, its shares and its limits: shown to its people, declared by its operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pipeline.api.policy import Operator, Reader
from pipeline.api.services import ServicesOf
from pipeline.store import policy_apply
from pipeline.store.limit_queries import list_limits
from pipeline.store.share_queries import list_shares
from schemas.policy import Policy
from schemas.share_views import LimitsView, PolicyDiff, PolicyView, SharesView

router = APIRouter(prefix="/v1", tags=["policy"])

DryRun = Annotated[bool, Query(description="only tell the difference")]


@router.get("/policy")
def show(caller: Reader, services: ServicesOf) -> PolicyView:
    """The VO's shares and limits as they were applied last."""
    return services.database.read(lambda tx: policy_apply.show(tx, caller.vo_id))


@router.put("/policy")
def apply(caller: Operator, services: ServicesOf, body: Policy, dry_run: DryRun = False) -> PolicyDiff:
    """Declare the VO's shares and limits as a whole: a limit that the file leaves out is none any more."""
    if dry_run:
        return services.database.read(lambda tx: policy_apply.apply(tx, caller, body, dry_run=True))
    return services.database.transact(lambda tx: policy_apply.apply(tx, caller, body))


@router.get("/shares")
def shares(caller: Reader, services: ServicesOf) -> SharesView:
    """What each group and owner of the VO is to get, and what it got."""
    half_life = services.settings.share_half_life
    return services.database.read(lambda tx: list_shares(tx, caller.vo_id, half_life))


@router.get("/limits")
def limits(caller: Reader, services: ServicesOf) -> LimitsView:
    """Every limit that concerns the VO, and how full it is."""
    return LimitsView(items=tuple(services.database.read(lambda tx: list_limits(tx, caller.vo_id))))
