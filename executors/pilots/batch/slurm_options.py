"""What a site queue may say of a Slurm cluster, and the sbatch words that it and the pilot's measures make."""

from __future__ import annotations

import math
import shlex
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from executors.pilots.batch.queue_options import read_options
from executors.pilots.batch.ssh import SshOptions
from executors.pilots.port import QueueSettings
from schemas.sites import SiteQueueEntry

Value = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f]+$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f:]*$")]
Folder = Annotated[str, StringConstraints(pattern=r"^(/|~/)[^\x00-\x1f%\\'\"]+$")]
"""A percent sign would be Slurm's own."""


class SlurmOptions(BaseModel):
    """`options` of a site queue whose batch system is `slurm`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: Value | None = None
    account: Value | None = None
    qos: Value | None = None
    constraint: Value | None = None
    extra: tuple[Value, ...] = ()
    """More words for sbatch, such as `--reservation=data-challenge`; they win over the queue's other words."""
    folder: Folder = "~/.penstock/slurm"
    """Where pilots write: seen by the nodes and by where the commands run. Files in it go after a week."""
    timeout: Annotated[float, Field(gt=0, le=300)] = 30.0
    """Seconds that a command may take."""
    accounting: bool = True
    """Whether sacct is asked for what squeue has forgotten. Where nothing keeps accounts it costs nothing."""
    conf: AbsolutePath | None = None
    """SLURM_CONF of the commands, where it is not the usual one."""
    path: AbsolutePath | None = None
    """The folder of Slurm's commands, where the shell would not find them, on the nodes neither."""
    ssh: SshOptions | None = None
    """The login node where the commands run; none: this machine."""

    @classmethod
    def of(cls, queue: QueueSettings) -> SlurmOptions:
        """Those of a queue. Raises BadSettings."""
        return read_options(queue, cls)

    def prelude(self) -> list[str]:
        """The lines that stand before every command; `$folder` is the folder where the commands run."""
        place = f'"$HOME"/{shlex.quote(self.folder[2:])}' if self.folder.startswith("~/") else shlex.quote(self.folder)
        lines = [f"export SLURM_CONF={shlex.quote(self.conf)}"] if self.conf is not None else []
        return ["umask 077", f"folder={place}", *lines, *self.path_line()]

    def path_line(self) -> list[str]:
        """The line of a script that finds Slurm's commands, where one is needed."""
        return [f'export PATH={shlex.quote(self.path)}:"$PATH"'] if self.path is not None else []


def measures(entry: SiteQueueEntry, options: SlurmOptions) -> list[str]:
    """The words of sbatch for one batch job: its measures per node, its place, then the site's own words.

    Slurm counts time in minutes. A job that its controller would start again is ours to replace; a pilot gets neither
    the environment nor the limits of the process that submits it.
    """
    words = [
        f"--nodes={entry.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={entry.cores}",
        f"--mem={entry.memory}M",
        f"--time={math.ceil(entry.wall_time / 60)}",
        "--no-requeue",
        "--export=NONE",
        "--propagate=NONE",
    ]
    words += [f"--gres=gpu:{entry.gpu.count}"] if entry.gpu is not None else []
    named = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
    }
    words += [f"--{name}={value}" for name, value in named.items() if value is not None]
    return [*words, *options.extra]
