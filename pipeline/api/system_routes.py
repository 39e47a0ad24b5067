"""The system itself: its processes, its queues, the published schema of the job file."""

from __future__ import annotations

from fastapi import APIRouter

from pipeline.api.policy import FOR_ALL, Watcher
from pipeline.api.services import ServicesOf
from pipeline.mixed_versions import mixture
from pipeline.queue_views import survey
from pipeline.runtime.spec import declared_queues
from pipeline.store import instances
from pipeline.store.instances import InstanceRow
from pipeline.store.queue_sizes import recent_sizes
from schemas.api import InstanceList, InstanceView, JsonSchema, QueueList
from schemas.campaign import Campaign

router = APIRouter(prefix="/v1", tags=["system"])


@router.get("/instances")
def list_instances(_caller: Watcher, services: ServicesOf) -> InstanceList:
    """Every process, with a warning where versions differ."""
    rows = services.database.read(instances.list_instances)
    warning = mixture(rows)
    return InstanceList(items=tuple(_view(row) for row in rows), warnings=() if warning is None else (warning,))


@router.get("/queues")
def list_queues(_caller: Watcher, services: ServicesOf) -> QueueList:
    """How full each queue is, how many consumers serve it and how many are wanted, what arrives and what it costs."""
    rows, controls, measured = services.database.read(
        lambda tx: (instances.list_instances(tx), instances.controls(tx), recent_sizes(tx))
    )
    return QueueList(items=tuple(survey(services.publisher.depth(declared_queues()), rows, controls, measured)))


@router.get("/schema/campaign", dependencies=FOR_ALL)
def campaign_schema() -> JsonSchema:
    """The JSON Schema of the job file, for editors."""
    return Campaign.model_json_schema()


def _view(row: InstanceRow) -> InstanceView:
    return InstanceView(
        id=row.id,
        kind=row.kind,
        queues=row.queues,
        version=row.version,
        host=row.host,
        pid=row.pid,
        state=row.state,
        wish=row.wish,
        in_flight=row.in_flight,
        oldest_age=row.oldest_age,
        started_at=row.started_at,
        last_seen=row.last_seen,
        silence=row.silence,
        health_url=row.health_url,
    )
