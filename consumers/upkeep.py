"""The queue `upkeep`: what ticks ask for."""

from executors.upkeep.shell import execute
from pipeline.runtime.spec import ConsumerSpec
from schemas.messages import Tick

SPEC = ConsumerSpec(
    queue="upkeep",
    bodies=(Tick,),
    execute=execute,
    batch=10,
    deadline=120.0,
    preload=("executors.upkeep.shell",),
)
