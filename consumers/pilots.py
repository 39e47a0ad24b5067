"""The queue `pilots`: pilots are planned, submitted, followed and removed."""

from executors.pilots.queue_round import DEADLINE
from executors.pilots.shell import execute
from pipeline.runtime.spec import ConsumerSpec
from schemas.messages import ProvisioningDue, SiteQueuesDue

SPEC = ConsumerSpec(
    queue="pilots",
    bodies=(ProvisioningDue, SiteQueuesDue),
    execute=execute,
    batch=8,
    deadline=DEADLINE,
    preload=("executors.pilots.shell",),
)
