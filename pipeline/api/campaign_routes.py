"""Campaigns: submit, list, show, and the commands on them."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from structlog import get_logger

from pipeline.api.etags import NOT_MODIFIED, IfNoneMatch, answer_if_changed
from pipeline.api.pages import cut
from pipeline.api.policy import Reader, User
from pipeline.api.services import Services, ServicesOf
from pipeline.store import campaigns, job_commands
from pipeline.store.access import Caller
from pipeline.store.campaign_queries import (
    CampaignFilter,
    list_campaigns,
    require_command,
    show_campaign,
    summarise_campaign,
)
from pipeline.store.job_commands import Counted, JobFilter
from pipeline.store.optimisation import read_offers
from pipeline.traces import ids
from schemas.api import AcceptRequest, CampaignPage, CampaignQuery, CampaignView, Commanded, SubmitReply, SubmitRequest
from schemas.bounds import RowId
from schemas.placement import unplaceable

_log = get_logger("api")

TraceParent = Annotated[
    str | None, Header(description="W3C Trace Context: the traces of the jobs are linked to it; left out when invalid")
]
router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"])

CampaignId = Annotated[RowId, Path()]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="a repeated request with the same key stores nothing twice"),
]


@router.post("", status_code=201)
def submit(
    caller: User,
    services: ServicesOf,
    body: SubmitRequest,
    idempotency_key: IdempotencyKey = None,
    traceparent: TraceParent = None,
) -> SubmitReply:
    """Store a campaign; its jobs start as soon as sites have room."""
    settings = services.settings
    submission = campaigns.Submission(
        vo_id=caller.vo_id,
        owner_id=caller.identity_id,
        description=body.description,
        sandboxes=body.sandboxes,
        idempotency_key=idempotency_key,
        request_digest=hashlib.sha256(body.model_dump_json().encode()).hexdigest(),
        trace=ids.traceparent(traceparent),
    )
    submitted = campaigns.submit(
        services.database, submission, window=settings.campaign_window, wake_after=settings.wake_after
    )
    if not submitted.is_repeated:
        _log.info(
            "campaign_submitted",
            campaign_id=submitted.campaign_id,
            campaign=body.description.campaign,
            jobs=submitted.jobs,
            vo_id=caller.vo_id,
            user=caller.subject,
            trace=submission.trace,
        )
    services.publisher.publish(submitted.messages)
    return SubmitReply(
        campaign_id=submitted.campaign_id,
        name=body.description.campaign,
        jobs=submitted.jobs,
        warnings=_warnings(services, caller, body),
    )


@router.get("")
def list_(caller: Reader, services: ServicesOf, query: Annotated[CampaignQuery, Query()]) -> CampaignPage:
    """The VO's campaigns, the newest first."""
    wanted = CampaignFilter(query.state, query.name, query.owner)
    found = services.database.read(
        lambda tx: list_campaigns(tx, caller.vo_id, wanted, after=query.after or None, most=query.limit + 1)
    )
    items, following = cut(found, query.limit)
    return CampaignPage(items=items, next=following)


@router.get(
    "/{campaign_id}",
    response_model=CampaignView,
    responses=NOT_MODIFIED,
)
def show(
    caller: Reader,
    services: ServicesOf,
    campaign_id: CampaignId,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A campaign with its steps and their jobs by state; pollers send `If-None-Match`."""
    view = services.database.read(lambda tx: show_campaign(tx, caller.vo_id, campaign_id))
    return answer_if_changed(view, if_none_match)


@router.post("/{campaign_id}/pause")
def pause(caller: User, services: ServicesOf, campaign_id: CampaignId) -> Commanded:
    """Let nothing more of it start; what runs goes on."""
    _check(services, caller, campaign_id)
    campaigns.pause(services.database, campaign_id)
    return _commanded(services, caller, campaign_id, "pause")


@router.post("/{campaign_id}/resume")
def resume(caller: User, services: ServicesOf, campaign_id: CampaignId) -> Commanded:
    """Let a paused campaign go on."""
    _check(services, caller, campaign_id)
    settings = services.settings
    messages = campaigns.resume(
        services.database, campaign_id, window=settings.campaign_window, wake_after=settings.wake_after
    )
    services.publisher.publish(messages)
    return _commanded(services, caller, campaign_id, "resume")


@router.post("/{campaign_id}/cancel")
def cancel(caller: User, services: ServicesOf, campaign_id: CampaignId) -> Commanded:
    """End a campaign: its steps are cancelled, its jobs killed."""
    _check(services, caller, campaign_id)
    campaigns.cancel(services.database, campaign_id)
    counted = job_commands.kill(services.database, caller.vo_id, JobFilter(campaign_id=campaign_id))
    services.publisher.publish(counted.messages)
    return _commanded(services, caller, campaign_id, "cancel", counted)


@router.post("/{campaign_id}/retry")
def retry(caller: User, services: ServicesOf, campaign_id: CampaignId) -> Commanded:
    """Receive its failed jobs again, their retry budgets fresh."""
    _check(services, caller, campaign_id)
    settings = services.settings
    counted = job_commands.retry(
        services.database,
        caller.vo_id,
        JobFilter(campaign_id=campaign_id),
        window=settings.campaign_window,
        wake_after=settings.wake_after,
    )
    services.publisher.publish(counted.messages)
    return _commanded(services, caller, campaign_id, "retry", counted)


@router.post("/{campaign_id}/accept")
def accept(caller: User, services: ServicesOf, campaign_id: CampaignId, body: AcceptRequest) -> Commanded:
    """Close a blocked step as it is, so that later steps are released."""
    _check(services, caller, campaign_id)
    settings = services.settings
    messages = campaigns.accept(
        services.database, campaign_id, body.step, window=settings.campaign_window, wake_after=settings.wake_after
    )
    services.publisher.publish(messages)
    return _commanded(services, caller, campaign_id, "accept")


def _warnings(services: Services, caller: Caller, body: SubmitRequest) -> tuple[str, ...]:
    margin = services.settings.pilot_margin
    offers = services.database.read(lambda tx: read_offers(tx, [caller.vo_id], margin=margin))[caller.vo_id]
    found = [(step.name, unplaceable(step.requirements, offers, step.job_type)) for step in body.description.steps]
    return tuple(f"step {name} is held until this changes: {reason}" for name, reason in found if reason)


def _check(services: Services, caller: Caller, campaign_id: int) -> None:
    services.database.read(lambda tx: require_command(tx, caller, campaign_id))


def _commanded(
    services: Services, caller: Caller, campaign_id: int, command: str, counted: Counted | None = None
) -> Commanded:
    _log.info("campaign_commanded", campaign_id=campaign_id, command=command, user=caller.subject, vo_id=caller.vo_id)
    view = services.database.read(lambda tx: summarise_campaign(tx, caller.vo_id, campaign_id))
    done = counted or Counted()
    return Commanded(campaign_id=campaign_id, state=view.state, changed=done.changed, requested=done.requested)
