"""Pilots, for the people of their VO. What pilots themselves call is in `pilot_routes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from pipeline.api.etags import NOT_MODIFIED, IfNoneMatch, answer_if_changed
from pipeline.api.pages import cut
from pipeline.api.policy import Reader
from pipeline.api.services import ServicesOf
from pipeline.errors import NotFound
from pipeline.store.pilot_queries import list_pilots, output_times, show_pilot
from schemas.bounds import RowId
from schemas.pilot_views import PilotDetail, PilotLog, PilotPage, PilotQuery

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


@router.get(
    "/{pilot_id}/log",
    response_model=PilotLog,
    responses=NOT_MODIFIED,
)
def log(
    caller: Reader,
    services: ServicesOf,
    pilot_id: PilotId,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """What a pilot wrote, as it was fetched last; 404 says how it is fetched."""
    times = services.database.read(lambda tx: output_times(tx, caller.vo_id, pilot_id))
    if times.output_at is None:
        raise NotFound(
            f"the output of pilot {pilot_id} was not fetched yet; an operator asks for it with `penstock pilots log "
            f"{pilot_id} --fresh` (POST /v1/pilots/{pilot_id}/log)"
        )
    stdout, stderr = services.sandboxes.get_pilot_output(caller.vo, pilot_id)
    view = PilotLog(
        pilot_id=pilot_id,
        fetched_at=times.output_at,
        wanted_at=times.output_wanted_at,
        stdout=stdout,
        stderr=stderr,
    )
    return answer_if_changed(view, if_none_match)
