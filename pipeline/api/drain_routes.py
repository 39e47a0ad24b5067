"""Drains over the API: an operator drains the own VO, everywhere or at one site. What concerns everybody is drained
by whoever has the database; all may see it, as far as it is theirs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from pipeline.api.pages import cut
from pipeline.api.pilot_command_routes import wake
from pipeline.api.policy import Operator, Watcher
from pipeline.api.services import ServicesOf
from pipeline.errors import Forbidden
from pipeline.store import drain_pilots, drain_reports, drains
from pipeline.store.access import Caller
from pipeline.store.drains import Aim, Order
from schemas.bounds import RowId
from schemas.drain_views import DrainLifted, DrainPage, DrainQuery, DrainReport, DrainRequest, DrainScope

router = APIRouter(prefix="/v1/drains", tags=["drains"])


@router.get("")
def list_(caller: Watcher, services: ServicesOf, query: Annotated[DrainQuery, Query()]) -> DrainPage:
    """The drains of the caller's VO and of everybody, the newest first."""
    found = services.database.read(
        lambda tx: drains.some(tx, most=query.limit + 1, below=query.after, lifted=query.lifted, seen_by=caller.vo_id)
    )
    items, following = cut([drain.view() for drain in found], query.limit)
    return DrainPage(items=items, next=following)


@router.get("/{drain_id}")
def show(caller: Watcher, services: ServicesOf, drain_id: Annotated[RowId, Path()]) -> DrainReport:
    """A drain, and what is left of it in the caller's VO, with the reasons."""
    return drain_reports.judge(services.database, drain_id, seen_by=caller.vo_id)


@router.post("", status_code=201)
def start(caller: Operator, services: ServicesOf, body: DrainRequest) -> DrainReport:
    """Let nothing new of the operator's VO begin at a site, or anywhere, and its pilots end after their jobs. Where it
    is drained already, that drain goes on."""
    aim = _aim(caller, body)
    order = Order(caller.subject, body.why, body.deadline, body.kill)
    drain = services.database.transact(lambda tx: drains.start(tx, aim, order))
    wake(services, drain_pilots.tell(services.database, drain).queue_ids)
    return services.database.read(lambda tx: drain_reports.report(tx, drain, seen_by=caller.vo_id))


@router.post("/lift")
def lift(caller: Operator, services: ServicesOf, body: DrainScope) -> DrainLifted:
    """Take a drain of the operator's VO back, with its own bans and no others. Its held jobs are looked at again a
    little later, by upkeep."""
    aim = _aim(caller, body)
    lifted = services.database.transact(lambda tx: drains.lift(tx, aim, caller.subject))
    if lifted is None:
        return DrainLifted(lifted=None)
    return DrainLifted(lifted=lifted.view())


def _aim(caller: Caller, body: DrainScope) -> Aim:
    if body.vo not in {None, caller.vo}:
        raise Forbidden(f"your token is for the VO {caller.vo}; {body.vo}'s operators drain {body.vo}")
    return Aim.of_vo(caller.vo_id, caller.vo, body.site)
