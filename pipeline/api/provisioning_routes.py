"""What provisioning would do now, without doing it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from pipeline.api.policy import Reader
from pipeline.api.services import ServicesOf
from pipeline.preview import find_plan_preview
from schemas.plan_views import PlanQuery, PlanView

router = APIRouter(prefix="/v1/provisioning", tags=["pilots"])


@router.get("/plan")
def plan(caller: Reader, services: ServicesOf, query: Annotated[PlanQuery, Query()]) -> PlanView:
    """What the next cycle would do at the VO's site queues, and why. Changes nothing; 503 while the demand is not
    known."""
    ask = find_plan_preview()
    view = services.database.read(lambda tx: ask(tx, services.settings, caller.vo_id))
    told = [row for row in view.items if query.site in {None, row.site} and query.queue in {None, row.queue}]
    sums = {name: sum(getattr(row, name) for row in told) for name in ("request", "remove", "drain")}
    return view.model_copy(update={"items": tuple(told), **sums})
