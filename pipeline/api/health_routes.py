"""Whether this process turns, whether it can serve, and its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from pipeline.api.policy import FOR_ALL, Watcher
from pipeline.api.services import ServicesOf, services_of
from pipeline.metrics import LIVE
from pipeline.store import instances
from pipeline.store.instances import InstanceRow
from schemas.api import Health
from schemas.scrape_targets import TargetGroup, TargetLabels

router = APIRouter(tags=["health"])
_LOOKED_FOR = 900.0
"""Seconds of silence after which nobody looks for a process any more; one that ends leaves the list at once."""


@router.get("/livez", dependencies=FOR_ALL)
async def live(request: Request) -> Health:
    """The loop turns and its worker threads answer, or wait for the database. Takes no thread itself."""
    services = services_of(request)
    complaint = services.vitals.stuck(services.database)
    if complaint is not None:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, complaint)
    return Health()


@router.get("/readyz", dependencies=FOR_ALL)
async def ready(request: Request) -> Health:
    """The database answers within 2 s; a broker that is away is told, and does not keep the API from serving."""
    services = services_of(request)
    await services.vitals.ask(services.database)
    return Health(complaints=("the broker can't be reached",) if services.publisher.away else ())


@router.get(
    "/metrics",
    dependencies=FOR_ALL,
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus metrics of this process and of the whole system, and how full the queues are, as `/v1/queues` tells.

    What nobody knows within a few seconds has no sample: the depths while the broker is away, the system's numbers
    while the database is. Takes none of the threads that answer requests.
    """
    services = services_of(request)
    LIVE.set(services.vitals.stuck(services.database) is None)
    told = await services.metrics.tell(services.settings, services.database, services.publisher)
    return Response(told, media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/scrape-targets")
def scrape_targets(_caller: Watcher, services: ServicesOf) -> list[TargetGroup]:
    """The processes, for Prometheus' HTTP service discovery: it then scrapes each at the port that it has.

    One that has fallen silent is among them for 15 minutes, so that an alert tells of it.
    """
    return list(_targets(services.database.read(instances.list_instances)))


def _targets(rows: Iterable[InstanceRow]) -> Iterable[TargetGroup]:
    for row in rows:
        if row.health_url is not None and row.silence < _LOOKED_FOR:
            url = urlsplit(row.health_url)
            labels = TargetLabels(
                kind=row.kind,
                queues="".join(f"{queue}," for queue in ("", *row.queues)),
                version=row.version,
                instance=row.id,
                scheme=url.scheme,
            )
            yield TargetGroup(targets=(url.netloc,), labels=labels)
