"""Pilots, for the people of their VO. What pilots themselves call is in `pilot_routes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from pipeline.api.pages import cut
from pipeline.api.policy import Reader
from pipeline.api.services import ServicesOf
from pipeline.store.pilot_queries import list_pilots, show_pilot
from schemas.bounds import RowId
from schemas.pilot_views import PilotDetail, PilotPage, PilotQuery

router = APIRouter(prefix="/v1/pilots", tags=["pilots"])
PilotId = Annotated[RowId, Path()]


@router.get("")
def list_(caller: Reader, services: ServicesOf, query: Annotated[PilotQuery, Query()]) -> PilotPage:
    """The VO's pilots, the newest first."""
    most, max_failures = query.limit + 1, services.settings.pilot_max_failures
    found = services.database.read(
        lambda tx: list_pilots(tx, caller.vo_id, query, most=most, max_failures=max_failures)
    )
    items, following = cut(found, query.limit)
    return PilotPage(items=items, next=following)


@router.get("/{pilot_id}")
def show(caller: Reader, services: ServicesOf, pilot_id: PilotId) -> PilotDetail:
    """All that is known of a pilot: its node, its times, the jobs at hand, and why it is as it is."""
    max_failures = services.settings.pilot_max_failures
    return services.database.read(lambda tx: show_pilot(tx, caller.vo_id, pilot_id, max_failures=max_failures))
