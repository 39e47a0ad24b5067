"""The queue `matching`: free slots and waiting jobs are paired."""

from executors.matching.shell import execute
from pipeline.runtime.spec import ConsumerSpec
from schemas.messages import JobsWaiting, SlotsOffered

SPEC = ConsumerSpec(
    queue="matching",
    bodies=(SlotsOffered, JobsWaiting),
    execute=execute,
    batch=100,
    deadline=60.0,
    preload=("executors.matching.shell",),
)
