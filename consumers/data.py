"""The queue `data`: outputs, steps and files are checked."""

from executors.data.shell import execute
from pipeline.runtime.spec import ConsumerSpec
from schemas.messages import FilesDue, OutputsReported, StepsDue

SPEC = ConsumerSpec(
    queue="data",
    bodies=(OutputsReported, StepsDue, FilesDue),
    execute=execute,
    batch=20,
    deadline=120.0,
    preload=("executors.data.shell",),
)
