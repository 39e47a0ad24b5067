"""Jobs: list, show, what they wrote, kill and retry in bulk."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from structlog import get_logger

from pipeline.api.job_archives import newest_archive, read_logs
from pipeline.api.pages import cut
from pipeline.api.policy import Reader, User
from pipeline.api.services import ServicesOf
from pipeline.errors import BadInput
from pipeline.store import job_commands
from pipeline.store.access import Caller
from pipeline.store.job_commands import Counted, JobFilter
from pipeline.store.job_queries import list_jobs, place_of_job, show_job
from pipeline.store.matching import Alive
from pipeline.store.why_queries import Terms, explain_job
from pipeline.traces import ids
from schemas.api import Changed, JobLogs, JobOutputs, JobPage, JobQuery, JobSelection, JobView, LogsQuery, Role
from schemas.bounds import RowId
from schemas.why_views import JobWhy

_log = get_logger("api")
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
JobId = Annotated[RowId, Path()]
TAR_GZ: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("")
def list_(caller: Reader, services: ServicesOf, query: Annotated[JobQuery, Query()]) -> JobPage:
    """The VO's jobs by id."""
    wanted = JobFilter(query.id, query.campaign, query.step, query.state, query.site)
    found = services.database.read(
        lambda tx: list_jobs(tx, caller.vo_id, wanted, after=query.after, most=query.limit + 1)
    )
    items, following = cut(found, query.limit)
    return JobPage(items=items, next=following)


@router.post("/kill")
def kill(caller: User, services: ServicesOf, body: JobSelection) -> Changed:
    """Kill jobs; those on a pilot end when it confirms. A user's own jobs, an operator's whole VO."""
    counted = job_commands.kill(services.database, caller.vo_id, _chosen(caller, body))
    services.publisher.publish(counted.messages)
    return _changed(caller, "kill", counted)


@router.post("/retry")
def retry(caller: User, services: ServicesOf, body: JobSelection) -> Changed:
    """Receive failed jobs again, their retry budgets fresh. A user's own jobs, an operator's whole VO."""
    settings = services.settings
    counted = job_commands.retry(
        services.database,
        caller.vo_id,
        _chosen(caller, body),
        window=settings.campaign_window,
        wake_after=settings.wake_after,
    )
    services.publisher.publish(counted.messages)
    return _changed(caller, "retry", counted)


@router.get("/{job_id}")
def show(caller: Reader, services: ServicesOf, job_id: JobId) -> JobView:
    """A job with its events, its story, attempts, running tail, outputs, and where it is traced the trace's id."""
    settings = services.settings
    view = services.database.read(lambda tx: show_job(tx, caller.vo_id, job_id))
    trace = ids.shown(view.id, view.created_at, share=settings.traces_share) if settings.traces_url else None
    return view.model_copy(update={"trace_id": trace})


@router.get("/{job_id}/logs")
def logs(caller: Reader, services: ServicesOf, job_id: JobId, query: Annotated[LogsQuery, Query()]) -> JobLogs:
    """Standard output and error of an attempt: by default the running one's last lines, else the newest that ended."""
    place = services.database.read(lambda tx: place_of_job(tx, caller.vo_id, job_id))
    return read_logs(services.sandboxes, job_id, place, query.attempt)


@router.get("/{job_id}/why")
def why(caller: Reader, services: ServicesOf, job_id: JobId) -> JobWhy:
    """Why a job is in its state: what each site queue of the VO lacks for it, limits that are full, its turn."""
    settings = services.settings
    alive = Alive(settings.heartbeat_timeout, settings.pilot_max_failures)
    terms = Terms(margin=settings.pilot_margin, half_life=settings.share_half_life, alive=alive)
    return services.database.read(lambda tx: explain_job(tx, caller.vo_id, job_id, terms))


@router.get("/{job_id}/archive", response_class=Response, responses=TAR_GZ)
def archive(caller: Reader, services: ServicesOf, job_id: JobId) -> Response:
    """The newest archive as tar.gz: logs, and the small files that the job asked to keep."""
    place = services.database.read(lambda tx: place_of_job(tx, caller.vo_id, job_id))
    attempt, content = newest_archive(services.sandboxes, job_id, place)
    name = f'attachment; filename="job-{job_id}-a{attempt}.tar.gz"'
    return Response(content, media_type="application/gzip", headers={"Content-Disposition": name})


@router.get("/{job_id}/outputs")
def outputs(caller: Reader, services: ServicesOf, job_id: JobId) -> JobOutputs:
    """The registered outputs with the URLs of their replicas."""
    return JobOutputs(items=services.database.read(lambda tx: show_job(tx, caller.vo_id, job_id)).outputs)


def _chosen(caller: Caller, body: JobSelection) -> JobFilter:
    if body == JobSelection():
        raise BadInput("name at least one condition: ids, campaign_id, step, states or site", field="ids")
    return JobFilter(
        ids=body.ids,
        campaign_id=body.campaign_id,
        step=body.step,
        states=body.states,
        site=body.site,
        owner_id=None if caller.role is Role.OPERATOR else caller.identity_id,
    )


def _changed(caller: Caller, command: str, counted: Counted) -> Changed:
    count = counted.changed + counted.requested
    _log.info("jobs_commanded", command=command, count=count, user=caller.subject, vo_id=caller.vo_id)
    return Changed(changed=counted.changed, requested=counted.requested)
