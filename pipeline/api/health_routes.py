"""Whether this process turns, whether it can serve, and its numbers."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.api.policy import FOR_ALL
from pipeline.api.services import ServicesOf
from schemas.api import Health

router = APIRouter(tags=["health"], dependencies=FOR_ALL)


@router.get("/livez")
def live() -> Health:
    """The loop turns and a worker thread answered."""
    return Health()


@router.get("/readyz")
def ready(services: ServicesOf) -> Health:
    """The database answers; a broker that is down does not keep the API from serving."""
    services.database.now()
    return Health()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics() -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
