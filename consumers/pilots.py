"""The queue `pilots`: pilots are planned, submitted, followed and removed."""

from executors.pilots.shell import BATCH, execute
from pipeline.runtime.spec import ConsumerSpec
from schemas.messages import ProvisioningDue, SiteQueuesDue

SPEC = ConsumerSpec(
    queue="pilots",
    bodies=(ProvisioningDue, SiteQueuesDue),
    execute=execute,
    batch=BATCH,
    deadline=120.0,
    preload=("executors.pilots.shell",),
)
