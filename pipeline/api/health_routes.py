"""Whether this process turns, whether it can serve, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.api.policy import FOR_ALL
from pipeline.api.services import Services, ServicesOf
from pipeline.errors import BrokerUnavailable, DatabaseUnavailable
from pipeline.metrics import QUEUE_IN_FLIGHT, QUEUE_OLDEST_AGE, QUEUE_READY
from pipeline.queue_views import complete
from pipeline.runtime.spec import declared_queues
from pipeline.store import instances
from pipeline.transport.port import Depth
from schemas.api import Health

_GAUGES = (QUEUE_READY, QUEUE_IN_FLIGHT, QUEUE_OLDEST_AGE)
_UNKNOWN = Depth(ready=None, in_flight=None, oldest_age=None)

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
    """Prometheus metrics of this process, and how full the queues are, as `/v1/queues` tells it.

    What nobody knows has no sample: all of it while the broker is away.
    """
    for queue, depth in _depths(services).items():
        for gauge, value in zip(_GAUGES, (depth.ready, depth.in_flight, depth.oldest_age), strict=True):
            if value is None:
                gauge.remove(queue)
            else:
                gauge.labels(queue).set(value)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _depths(services: Services) -> Mapping[str, Depth]:
    queues = declared_queues()
    try:
        told = services.publisher.depth(queues)
    except BrokerUnavailable:
        return dict.fromkeys(queues, _UNKNOWN)
    if all(
        depth.in_flight is not None and (depth.oldest_age is not None or depth.ready == 0) for depth in told.values()
    ):
        return told
    try:
        rows = services.database.read(instances.list_instances)
    except DatabaseUnavailable:
        return told
    return {queue: complete(queue, depth, rows) for queue, depth in told.items()}
