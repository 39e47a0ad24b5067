"""Sites: shown to users, declared and banned by operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from pipeline.api.policy import Operator, Reader
from pipeline.api.services import Services, ServicesOf
from pipeline.errors import Forbidden
from pipeline.store import sites
from pipeline.store.access import Caller
from pipeline.store.sites import Scope, Terms
from schemas.requirements import Name
from schemas.site_views import Allowed, AllowRequest, BanRequest, BanView, OnlyRequest, SitesDiff, SitesView
from schemas.sites import SitesFile

router = APIRouter(prefix="/v1/sites", tags=["sites"])

Site = Annotated[Name, Path(description="the site's name")]
DryRun = Annotated[bool, Query(description="only tell the difference")]


@router.get("")
def list_(caller: Reader, services: ServicesOf) -> SitesView:
    """Every site with its queues, storages and bans; pilots are counted in the caller's VO."""
    return services.database.read(lambda tx: sites.list_sites(tx, caller.vo_id))


@router.post("/apply")
def apply(caller: Operator, services: ServicesOf, body: SitesFile, dry_run: DryRun = False) -> SitesDiff:
    """Declare what the file says; what it leaves out gets nothing new. Held jobs are looked at again."""
    del caller
    data_dir = services.settings.resolved_data_dir()
    diff = services.database.transact(lambda tx: sites.apply(tx, body, data_dir=data_dir, dry_run=dry_run))
    if diff.added or diff.changed:
        _wake(services, dry_run=dry_run)
    return diff


@router.post("/{site}/ban")
def ban(caller: Operator, services: ServicesOf, site: Site, body: BanRequest) -> BanView:
    """Let nothing new of the operator's VO go to a site or one of its queues."""
    scope = _scope(caller, site, body)
    terms = Terms(caller.subject, body.why, body.until)
    return services.database.transact(lambda tx: sites.ban(tx, scope, terms))


@router.post("/{site}/test")
def test(caller: Operator, services: ServicesOf, site: Site, body: OnlyRequest) -> BanView:
    """Let only jobs of one type of the operator's VO go to a site or one of its queues. Held jobs are looked at again:
    before, it may have been another type."""
    scope = _scope(caller, site, body)
    terms = Terms(caller.subject, body.why, body.until, body.job_type)
    made = services.database.transact(lambda tx: sites.ban(tx, scope, terms))
    _wake(services)
    return made


@router.post("/{site}/allow")
def allow(caller: Operator, services: ServicesOf, site: Site, body: AllowRequest) -> Allowed:
    """Lift the operator's VO's bans and test modes of a site or one of its queues. Held jobs are looked at again."""
    scope = _scope(caller, site, body)
    lifted = services.database.transact(lambda tx: sites.allow(tx, scope, by=caller.subject))
    return Allowed(lifted=tuple(lifted), woken=_wake(services, dry_run=not lifted))


def _scope(caller: Caller, site: str, body: BanRequest | AllowRequest) -> Scope:
    if body.vo not in {None, caller.vo}:
        raise Forbidden(f"your token is for the VO {caller.vo}; {body.vo}'s operators ban and allow for {body.vo}")
    return Scope(caller.vo_id, site, body.queue)


def _wake(services: Services, *, dry_run: bool = False) -> int:
    """Receive all held jobs again, since sites may take them now; how many."""
    if dry_run:
        return 0
    settings = services.settings
    woken = sites.wake_held(services.database, None, window=settings.campaign_window, wake_after=settings.wake_after)
    services.publisher.publish(woken.messages)
    return woken.jobs
