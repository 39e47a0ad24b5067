"""Whether this process turns, whether it can serve, and its numbers."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.api.policy import FOR_ALL
from pipeline.api.services import ServicesOf
from pipeline.errors import BrokerUnavailable
from pipeline.metrics import QUEUE_READY
from pipeline.runtime.spec import declared_queues
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
def metrics(services: ServicesOf) -> Response:
    """Prometheus metrics of this process, and the depth of the queues as long as the broker answers."""
    try:
        for queue, depth in services.publisher.depth(declared_queues()).items():
            QUEUE_READY.labels(queue).set(depth.ready)
    except BrokerUnavailable:
        QUEUE_READY.clear()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
