"""The batch script of a submission: it finds out which pilot it is, and becomes that."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from executors.pilots.batch.slurm_options import SlurmOptions
from executors.pilots.port import PilotRequest
from executors.pilots.program import PilotProgram, script
from schemas.sites import SiteQueueEntry


def batch_script(
    requests: Sequence[PilotRequest], program: PilotProgram, entry: SiteQueueEntry, options: SlurmOptions
) -> str:
    """What follows the lines `#!/bin/sh` and `folder=WHERE PILOTS WRITE`, which the submitting shell adds: it alone
    knows that. One for all pilots of a submission: the array's index, and on several nodes the rank, say which it is.

    On several nodes the batch job itself only starts a step for each, named after its tag, with this same script as its
    standard input, and ends with the worst of their exit codes.
    """
    settings = {
        "tags": shlex.join(request.tag for request in requests),
        "nodes": entry.nodes,
        "cores": entry.cores,
        "path": "\n".join(options.path_line()),
    }
    begin = _ONE_NODE if entry.nodes == 1 else _MANY_NODES
    return begin.format(**settings) + script(program, {request.tag: request.secret for request in requests})


_ONE_NODE = """set -- {tags}
shift "${{SLURM_ARRAY_TASK_ID:-0}}"
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
for stream in out err; do
    mv -f "$folder/${{job:-$SLURM_JOB_ID}}.$stream" "$folder/$1.$stream"
done
{path}
"""
# The files were opened by Slurm, whose own last words come into them too.

_MANY_NODES = """if [ $# -eq 0 ]; then
    {path}
    set -- {tags}
    shift "$((${{SLURM_ARRAY_TASK_ID:-0}} * {nodes}))"
    steps=
    rank=0
    while [ "$rank" -lt {nodes} ]; do
        srun --quiet --export=ALL --nodes=1 --ntasks=1 --relative="$rank" --cpus-per-task={cores} --mpi=none \\
            --job-name="$1" --output="$folder/$1.out" --error="$folder/$1.err" \\
            /bin/sh -s "$1" < "$0" &
        steps="$steps $!"
        rank=$((rank + 1))
        shift
    done
    trap : TERM
    worst=0
    for step in $steps; do
        wait "$step"
        code=$?
        while kill -0 "$step" 2>/dev/null; do
            wait "$step"
            code=$?
        done
        [ "$code" -le "$worst" ] || worst=$code
    done
    exit "$worst"
fi
"""
