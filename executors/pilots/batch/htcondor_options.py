"""What a site queue may say of an HTCondor schedd, and the submit description that it and the pilot's measures make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from executors.pilots.batch.credentials import OPTIONS as CREDENTIAL_OPTIONS
from executors.pilots.batch.htcondor_ads import COMPLETED, FORGOTTEN, HELD, IDLE, REMOVED, SPOOLING_HOLD, STARTS, TAG
from executors.pilots.batch.queue_options import read_options
from executors.pilots.port import QueueSettings
from pipeline.errors import BadSettings
from schemas.resources import Gpus
from schemas.sites import SiteQueueEntry

SCRIPT = "pilot.sh"
DAY = 86_400.0
_CUT_OFF = 3_600
"""Seconds after which a submission whose files never came leaves the queue by itself."""
_OURS = ("executable", "arguments", "output", "error", "leave_in_queue", "queue")
_ARCHITECTURES = {"x86_64": "X86_64"}


class HtcondorOptions(BaseModel):
    """What a queue's `options` may say, besides `token_file` or `token_command`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedd: str = ""
    """Its name, as `condor_status -schedd` says it; none: that of this machine."""
    collector: str = ""
    """HOST[:PORT] of the pool's collector, which knows where the schedd is."""
    address: str = ""
    """HOST:PORT of a schedd that has a port of its own, instead of the two above."""
    requirements: str = ""
    """What else a slot must fulfil, a ClassAd expression."""
    grid_resource: str = ""
    """Makes them jobs of the grid universe for this resource. Passed on, never tried by us."""
    submit: Mapping[str, str] = {}
    """More words of the submit description, such as `accounting_group`."""
    config: Mapping[str, str] = {}
    """Settings of HTCondor for our calls, such as AUTH_SSL_CLIENT_CAFILE."""
    grace: Annotated[int, Field(ge=0, le=3_600)] = 60
    """Seconds from SIGTERM to SIGKILL, as far as the worker node grants them."""
    keep: Annotated[float, Field(gt=0)] = 7 * DAY
    """Seconds that an ended pilot stays in the queue when nobody removes it."""
    history: bool = True
    """Whether the schedd's history is asked for pilots that its queue does not know."""
    timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds that a call may take."""

    @classmethod
    def of(cls, queue: QueueSettings) -> HtcondorOptions:
        """Those of a queue. Raises BadSettings."""
        options = read_options(queue, cls, without=CREDENTIAL_OPTIONS)
        if options.address and (options.schedd or options.collector):
            raise BadSettings(f"queue {queue.label}: option address excludes schedd and collector; keep one way")
        ours = [word for word in options.submit if word.lower() in _OURS]
        if ours:
            raise BadSettings(
                f"queue {queue.label}: option submit must not say {', '.join(ours)}, which are Penstock's"
            )
        if queue.entry.nodes > 1:
            raise BadSettings(
                f"queue {queue.label}: HTCondor's vanilla universe has no jobs of several nodes; set nodes to 1, "
                f"not {queue.entry.nodes}"
            )
        return options


def submit_words(label: str, entry: SiteQueueEntry, options: HtcondorOptions) -> dict[str, str]:
    """The submit description; `$(tag)` comes with each item."""
    words = {
        "universe": "vanilla",
        "executable": SCRIPT,
        "arguments": "$(tag)",
        "output": "$(tag).out",
        "error": "$(tag).err",
        "should_transfer_files": "yes",
        "when_to_transfer_output": "on_exit",
        "transfer_output_files": '""',
        "batch_name": f"penstock {label}",
        "notification": "never",
        "request_cpus": str(entry.cores),
        "request_memory": str(entry.memory),
        "request_disk": str(entry.disk * 1024),
        "allowed_job_duration": str(entry.wall_time),
        "want_graceful_removal": "true",
        "job_max_vacate_time": str(options.grace),
        "requirements": _requirements(entry, options),
        "leave_in_queue": _left_in_queue(options.keep),
        "periodic_remove": _periodic_remove(entry.wall_time, options.keep),
        f"My.{TAG}": '"$(tag)"',
        f"My.{STARTS}": "0",
    }
    words |= _gpu_words(entry.gpu)
    if options.grid_resource:
        words |= {"universe": "grid", "grid_resource": options.grid_resource}
    return words | dict(options.submit)


def _requirements(entry: SiteQueueEntry, options: HtcondorOptions) -> str:
    """Never started again after an eviction: its jobs run elsewhere by then. Without a word about `Arch`, nodes like
    our own machine would be asked for."""
    name = entry.architecture.name
    arch = "isnt undefined" if name is None else f'== "{_ARCHITECTURES.get(name, name)}"'
    terms = [f"(MY.NumJobStarts ?: 0) <= MY.{STARTS}", f"TARGET.Arch {arch}"]
    if options.requirements:
        terms.append(f"({options.requirements})")
    return " && ".join(terms)


def _left_in_queue(keep: float) -> str:
    ended = f"(JobStatus == {COMPLETED} || JobStatus == {REMOVED})"
    return f"{FORGOTTEN} =!= true && {ended} && time() - EnteredCurrentStatus < {int(keep)}"


def _periodic_remove(wall_time: int, keep: float) -> str:
    """A net below our own removals: evicted, past its wall time, cut off in submission, held and forgotten."""
    held = f"JobStatus == {HELD} && time() - EnteredCurrentStatus"
    return (
        f"(JobStatus == {IDLE} && NumJobStarts > {STARTS})"
        f" || (JobStatus == 2 && time() - JobCurrentStartDate > {wall_time + 600})"
        f" || ({held} > {_CUT_OFF} && HoldReasonCode == {SPOOLING_HOLD})"
        f" || ({held} > {int(keep)})"
    )


def _gpu_words(gpu: Gpus | None) -> dict[str, str]:
    if gpu is None:
        return {}
    words = {"request_gpus": str(gpu.count)}
    if gpu.memory is not None:
        words["gpus_minimum_memory"] = str(gpu.memory)
    if gpu.compute_capability is not None:
        words["gpus_minimum_capability"] = str(gpu.compute_capability)
    return words
