"""The queue `optimisation`: received jobs go through the optimiser chain."""

from executors.optimisation.shell import execute
from pipeline.runtime.spec import ConsumerSpec
from schemas.messages import JobsReceived

SPEC = ConsumerSpec(
    queue="optimisation",
    bodies=(JobsReceived,),
    execute=execute,
    batch=8,  # two windows, or eight small campaigns; a transaction of 200 jobs at the most
    deadline=60.0,
    preload=("executors.optimisation.shell",),
)
