"""Whether this process turns, whether it can serve, and its numbers."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.api.policy import FOR_ALL
from pipeline.api.services import ServicesOf
from pipeline.api.system_metrics import system_metrics
from schemas.api import Health

router = APIRouter(tags=["health"], dependencies=FOR_ALL)


@router.get("/livez")
def live() -> Health:
    """The loop turns and a worker thread answered."""
    return Health()


@router.get("/readyz")
def ready(services: ServicesOf) -> Health:
    """The database answers; a broker that is away is told, and does not keep the API from serving."""
    services.database.now()
    return Health(complaints=("the broker can't be reached",) if services.publisher.away else ())


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(services: ServicesOf) -> Response:
    """Prometheus metrics of this process and of the whole system, and how full the queues are, as `/v1/queues` tells.

    What nobody knows has no sample: the depths while the broker is away, the system's numbers while the database is.
    """
    system = system_metrics(services)
    return Response(generate_latest() + system, media_type=CONTENT_TYPE_LATEST)
