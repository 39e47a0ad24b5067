"""What operators let pilots do: order some, drain and kill them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Header, Path

from pipeline.api.policy import Operator
from pipeline.api.services import Services, ServicesOf
from pipeline.errors import BadInput
from pipeline.store import pilot_commands, pilot_requests
from pipeline.store.access import Caller
from pipeline.store.pilot_commands import PilotFilter, Told
from pipeline.store.pilot_queries import want_output
from schemas.bounds import RowId
from schemas.messages import SiteQueuesDue, about_ids
from schemas.pilot_views import LogWanted, PilotKill, PilotOrder, PilotsChanged, PilotSelection, PilotsOrdered

router = APIRouter(prefix="/v1/pilots", tags=["pilots"])

IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="a repeated request with the same key gets the same pilots"),
]


@router.post("/submit", status_code=201)
def submit(
    caller: Operator, services: ServicesOf, body: PilotOrder, idempotency_key: IdempotencyKey = None
) -> PilotsOrdered:
    """Request pilots of the operator's VO beside what provisioning plans: all of them, or 409 that names the limit in
    the way. Provisioning treats them like its own: what no job wants goes again, as the queue's `removal` says."""
    order = pilot_requests.Order(
        vo_id=caller.vo_id,
        vo=caller.vo,
        identity_id=caller.identity_id,
        site=body.site,
        queue=body.queue,
        count=body.count,
        key=idempotency_key,
    )
    made = services.database.transact(lambda tx: pilot_requests.request(tx, order))
    wake(services, [made.site_queue_id])
    return PilotsOrdered(pilot_ids=made.pilot_ids, warnings=made.warnings)


@router.post("/drain")
def drain(caller: Operator, services: ServicesOf, body: PilotSelection) -> PilotsChanged:
    """Let pilots end after the jobs that they have: active ones take no more, pending ones are removed."""
    why = _why("drained", caller, body)
    told = pilot_commands.drain(services.database, _chosen(caller, body), why, dry_run=body.dry_run)
    return _changed(services, told, dry_run=body.dry_run)


@router.post("/kill")
def kill(caller: Operator, services: ServicesOf, body: PilotKill) -> PilotsChanged:
    """The same as drain; with `now`, active ones are ended at once, and the jobs that they have start again."""
    command = pilot_commands.end_now if body.now else pilot_commands.drain
    why = _why("killed" if body.now else "drained", caller, body)
    told = command(services.database, _chosen(caller, body), why, dry_run=body.dry_run)
    return _changed(services, told, dry_run=body.dry_run)


@router.post("/{pilot_id}/log", status_code=202)
def want_log(caller: Operator, services: ServicesOf, pilot_id: Annotated[RowId, Path()]) -> LogWanted:
    """Let a pilot's output be fetched from its batch system, at the next round of its queue."""
    times = services.database.transact(lambda tx: want_output(tx, caller.vo_id, pilot_id))
    assert times.output_wanted_at is not None
    wake(services, [times.site_queue_id])
    return LogWanted(pilot_id=pilot_id, wanted_at=times.output_wanted_at, output_at=times.output_at)


def wake(services: Services, queue_ids: Iterable[int]) -> None:
    """Let a consumer look at these site queues now; without it, the next cycle of provisioning does."""
    now = services.database.clock()
    services.publisher.publish(about_ids(SiteQueuesDue, sorted(queue_ids), now=now, size=1))


def _why(word: str, caller: Caller, body: PilotSelection) -> str:
    return f"{word} by {caller.subject}" + (f": {body.why}" if body.why else "")


def _chosen(caller: Caller, body: PilotSelection) -> PilotFilter:
    if body.is_empty:
        raise BadInput("name at least one condition: ids, site, queue or states", field="ids")
    return PilotFilter(vo_id=caller.vo_id, ids=body.ids, site=body.site, queue=body.queue, states=body.states)


def _changed(services: Services, told: Told, *, dry_run: bool) -> PilotsChanged:
    wake(services, told.queue_ids)
    return PilotsChanged(removed=told.removed, drained=told.drained, ended=told.ended, dry_run=dry_run)
