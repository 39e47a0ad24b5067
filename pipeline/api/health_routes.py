"""Whether this process turns, whether it can serve, and its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.api.policy import FOR_ALL, Watcher
from pipeline.api.services import ServicesOf
from pipeline.api.system_metrics import system_metrics
from pipeline.queue_views import LIVE_WITHIN
from pipeline.store import instances
from pipeline.store.instances import InstanceRow
from schemas.api import Health
from schemas.scrape_targets import TargetGroup, TargetLabels

router = APIRouter(tags=["health"])


@router.get("/livez", dependencies=FOR_ALL)
def live() -> Health:
    """The loop turns and a worker thread answered."""
    return Health()


@router.get("/readyz", dependencies=FOR_ALL)
def ready(services: ServicesOf) -> Health:
    """The database answers; a broker that is away is told, and does not keep the API from serving."""
    services.database.now()
    return Health(complaints=("the broker can't be reached",) if services.publisher.away else ())


@router.get(
    "/metrics",
    dependencies=FOR_ALL,
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(services: ServicesOf) -> Response:
    """Prometheus metrics of this process and of the whole system, and how full the queues are, as `/v1/queues` tells.

    What nobody knows has no sample: the depths while the broker is away, the system's numbers while the database is.
    """
    system = system_metrics(services)
    return Response(generate_latest() + system, media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/scrape-targets")
def scrape_targets(_caller: Watcher, services: ServicesOf) -> list[TargetGroup]:
    """The live processes, for Prometheus' HTTP service discovery: it then scrapes each at the port that it has."""
    return list(_targets(services.database.read(instances.list_instances)))


def _targets(rows: Iterable[InstanceRow]) -> Iterable[TargetGroup]:
    for row in rows:
        if row.health_url is not None and row.silence < LIVE_WITHIN:
            url = urlsplit(row.health_url)
            labels = TargetLabels(
                kind=row.kind,
                queues="".join(f"{queue}," for queue in ("", *row.queues)),
                version=row.version,
                instance=row.id,
                scheme=url.scheme,
            )
            yield TargetGroup(targets=(url.netloc,), labels=labels)
