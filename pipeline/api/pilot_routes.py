"""The pilot protocol over HTTP. A pilot's token reaches the pilot's own jobs and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from threading import Event, Thread
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, FastAPI, HTTPException, Path, Request, Response
from structlog import get_logger

from pipeline.api.archive_check import check_archive
from pipeline.api.pilot_calls import FETCH, HEARTBEAT, OFFER, REPORT, START, answer_one, pilot_calls
from pipeline.api.policy import FOR_ALL, PilotCaller
from pipeline.api.services import Services, ServicesOf
from pipeline.api.uploads import AS_BODY, Upload
from pipeline.errors import NotFound, Unauthorized
from pipeline.store import heartbeats, pilots
from pipeline.store.access import Caller
from pipeline.store.losses import Aftermath, Rules, to_publish
from pipeline.store.own_attempts import holds_attempt, holds_sandbox
from schemas.bounds import Number, RowId
from schemas.pilots import (
    PROTOCOL,
    EndRequest,
    EnrolReply,
    EnrolRequest,
    HeartbeatReply,
    HeartbeatRequest,
    OfferReply,
    OfferRequest,
    ReportRequest,
    StartRequest,
    Verdict,
)
from schemas.states import PilotState

MARK_EVERY = 3.0
"""Seconds between two marks that this process serves heartbeats."""
_MARK_WAIT = 2.0
"""Seconds that a stopping process waits for a mark that the database keeps waiting."""

_log = get_logger("api")


@contextlib.asynccontextmanager
async def _serving(app: FastAPI) -> AsyncIterator[None]:
    """While the application serves, say so in the database: silence of pilots counts only then."""
    ended = Event()
    marks = Thread(target=_mark, args=(app.state.services, ended), name="serving", daemon=True)
    marks.start()
    try:
        yield
    finally:
        ended.set()
        marks.join(_MARK_WAIT)


def _mark(services: Services, ended: Event) -> None:
    gap = heartbeats.SERVING_GAP * services.settings.heartbeat_interval
    while not ended.is_set():
        try:
            services.database.transact(lambda tx: heartbeats.mark_serving(tx, gap))
        except Exception as error:  # noqa: BLE001 - the thread's boundary: without it no pilot would ever count as silent
            _log.warning("serving_unmarked", error=str(error))
        ended.wait(min(MARK_EVERY, gap / 3))


router = APIRouter(prefix="/v1/pilots", tags=["pilots"], lifespan=_serving)

_GZIP: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post("/enrol", dependencies=FOR_ALL)
def enrol(services: ServicesOf, body: EnrolRequest) -> EnrolReply:
    """Let a pilot in that its batch system has started; 426 for a protocol that is not spoken here."""
    if body.protocol != PROTOCOL:
        why = f"this API speaks pilot protocol {PROTOCOL}, the pilot {body.protocol}; submit pilots of this release"
        raise HTTPException(HTTPStatus.UPGRADE_REQUIRED, why)
    settings = services.settings
    enrolled = services.database.transact(lambda tx: pilots.enrol(tx, body, settings.pilot_margin))
    _log.info("pilot_enrolled", pilot_id=enrolled.pilot_id, tag=body.tag, node=body.node.host)
    return EnrolReply(
        pilot_id=enrolled.pilot_id,
        token=enrolled.token,
        heartbeat_interval=settings.heartbeat_interval,
        lifetime=enrolled.lifetime,
        idle_limit=settings.pilot_idle_limit,
        max_failures=settings.pilot_max_failures,
    )


@router.post("/self/offer")
async def offer(request: Request, caller: PilotCaller, services: ServicesOf, body: OfferRequest) -> OfferReply:
    """Offer the pilot's totals; assignments that it does not know yet, waited for if it wishes."""
    pilot_id, served = _id(caller), pilot_calls(request.app).served
    noted = await to_thread.run_sync(lambda: answer_one(services, OFFER, pilot_id, body))
    if noted.reply is not None:
        return noted.reply
    if body.wait and not await served.wait(pilot_id, body.wait):
        return OfferReply()
    return await to_thread.run_sync(lambda: answer_one(services, FETCH, pilot_id, body))


@router.post("/self/start")
def start(caller: PilotCaller, services: ServicesOf, body: StartRequest) -> Verdict:
    """Confirm attempts that are about to run; a refused one must not."""
    return answer_one(services, START, _id(caller), body)


@router.post("/self/heartbeat")
def heartbeat(caller: PilotCaller, services: ServicesOf, body: HeartbeatRequest) -> HeartbeatReply:
    """List every attempt at hand; the reply says which of them to stop."""
    return answer_one(services, HEARTBEAT, _id(caller), body)


@router.post("/self/report")
def report(caller: PilotCaller, services: ServicesOf, body: ReportRequest) -> Verdict:
    """Tell how attempts ended; a repeated report is accepted again. 409 when none of them counts (any more)."""
    return answer_one(services, REPORT, _id(caller), body)


@router.post("/self/end", status_code=HTTPStatus.NO_CONTENT)
def end(caller: PilotCaller, services: ServicesOf, body: EndRequest) -> None:
    """The pilot's last word; what it still holds is lost."""
    rules = Rules.of(services.settings)
    ending = pilots.Ending(PilotState.DONE, body.reason)
    aftermath = services.database.transact(lambda tx: pilots.end(tx, _id(caller), ending, rules))
    _log.info("pilot_ended", pilot_id=caller.pilot_id, reason=body.reason)
    _publish(services, aftermath)


@router.get("/self/sandboxes/{digest}", response_class=Response, responses=_GZIP)
def download_sandbox(
    caller: PilotCaller, services: ServicesOf, digest: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
) -> Response:
    """The input sandbox of a job that the pilot holds."""
    held = services.database.read(lambda tx: holds_sandbox(tx, _id(caller), digest))
    if not held:
        raise NotFound(f"no job of this pilot has the sandbox {digest}")
    return Response(services.sandboxes.get(caller.vo, digest), media_type="application/gzip")


@router.put("/self/archives/{job_id}/{attempt}", status_code=HTTPStatus.NO_CONTENT, openapi_extra=AS_BODY)
def upload_archive(
    caller: PilotCaller,
    services: ServicesOf,
    job_id: Annotated[RowId, Path()],
    attempt: Annotated[Number, Path()],
    content: Upload,
) -> None:
    """The log and small outputs of an attempt that the pilot holds, as tar.gz; a repeated upload replaces it."""
    held = services.database.read(lambda tx: holds_attempt(tx, _id(caller), job_id, attempt))
    if not held:
        raise NotFound(f"attempt {attempt} at job {job_id} is not this pilot's (any more)")
    check_archive(content)
    services.sandboxes.put_archive(caller.vo, job_id, attempt, content)


def _publish(services: Services, aftermath: Aftermath) -> None:
    services.publisher.publish(to_publish(services.database, aftermath))


def _id(caller: Caller) -> int:
    if caller.pilot_id is None:
        raise Unauthorized("this route is for pilots; the token is a person's")
    return caller.pilot_id
