"""Batch system `htcondor`: pilots are jobs of an HTCondor schedd, near or far, one cluster for each submission.

The tag is the job attribute `PenstockTag`, by which everything is asked for. The script that carries the pilot and its
secret is spooled, so that no file system is shared; the tag is its one argument. A job stays in the queue after its end
(`leave_in_queue`), with its output, until it is removed once more or `keep` seconds are over. A pilot that its node has
evicted is never started again. The pilot's output comes back when it has ended by itself: HTCondor brings none of a
job that runs, nor of one that was removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from executors.pilots.batch.credentials import OPTIONS as CREDENTIAL_OPTIONS
from executors.pilots.batch.credentials import Credential, CredentialKind, find_credential
from executors.pilots.batch.htcondor_ads import (
    COMPLETED,
    FORGOTTEN,
    HELD,
    IDLE,
    REMOVED,
    SPOOLING_HOLD,
    STARTS,
    TAG,
    Ad,
    job_id,
    phase,
    reason,
)
from executors.pilots.batch.htcondor_schedd import Address, Schedd, check_bindings
from executors.pilots.batch.output_files import read_output
from executors.pilots.port import (
    BatchAnswer,
    BatchState,
    PilotOutput,
    PilotRequest,
    QueueSettings,
    Submission,
)
from executors.pilots.program import PilotProgram, script
from pipeline.errors import BadSettings, BatchSystemUnavailable
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


class HtcondorBatchSystem:
    """One queue of it."""

    def __init__(self, queue: QueueSettings) -> None:
        check_bindings(queue.label)
        self._label = queue.label
        self._options = _options(queue)
        if queue.entry.nodes > 1:
            raise BadSettings(
                f"queue {queue.label}: HTCondor's vanilla universe has no jobs of several nodes; set nodes to 1, "
                f"not {queue.entry.nodes}"
            )
        where = Address(self._options.schedd, self._options.collector, self._options.address)
        credential = _credential(queue)
        self._schedd = Schedd(where, queue.data_dir, self._options.timeout, credential, self._options.config)
        self._words = submit_words(queue.label, queue.entry, self._options)

    def submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Mapping[str, Submission]:
        """One cluster, or several where the schedd's limits cut it; known ones that are held are released."""
        if not requests:
            return {}
        secrets = {request.tag: request.secret for request in requests}
        with self._schedd.folder() as folder:
            file = folder / SCRIPT
            file.touch(mode=0o700)
            file.write_text(script(program, secrets))
            said = self._schedd.call("submit", folder, tags=list(secrets), words=self._words, history=self._history)
        if not said["taken"]:
            raise BatchSystemUnavailable(f"{self._schedd.address} takes no pilots: {said['refusal']}")
        return {tag: Submission(handle) for tag, handle in said["taken"].items()}

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        """By the queue, and by the history for those that it does not know."""
        if not tags:
            return {}
        with self._schedd.folder() as folder:
            ads = self._schedd.call("poll", folder, tags=list(tags), history=self._history)
        return {ad[TAG]: answer(ad) for ad in ads}

    def remove(self, tags: Sequence[str]) -> None:
        """Live ones get SIGTERM, then SIGKILL after the grace; ended ones leave the queue with their spooled files."""
        if tags:
            with self._schedd.folder() as folder:
                self._schedd.call("remove", folder, tags=list(tags))

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        """That of those that have ended by themselves; empty for others that the queue knows."""
        if not tags:
            return {}
        with self._schedd.folder() as folder:
            known = self._schedd.call("fetch_output", folder, tags=list(tags))
            return {tag: read_output(folder / f"{tag}.out", folder / f"{tag}.err") for tag in known}

    @property
    def _history(self) -> float:
        return self._options.keep + DAY if self._options.history else 0.0


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


def answer(ad: Ad) -> BatchAnswer:
    """What a job's attributes say."""
    state = BatchState(phase(ad))
    code = ad.get("ExitCode") if ad["JobStatus"] == COMPLETED and not ad.get("ExitBySignal") else None
    return BatchAnswer(job_id(ad), state, code, reason(ad))


def _options(queue: QueueSettings) -> HtcondorOptions:
    given = {name: value for name, value in queue.entry.options.items() if name not in CREDENTIAL_OPTIONS}
    try:
        options = HtcondorOptions.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise BadSettings(f"queue {queue.label}: options of the batch system htcondor: {wrong}") from error
    if options.address and (options.schedd or options.collector):
        raise BadSettings(f"queue {queue.label}: option address excludes schedd and collector; keep one way")
    ours = [word for word in options.submit if word.lower() in _OURS]
    if ours:
        raise BadSettings(f"queue {queue.label}: option submit must not say {', '.join(ours)}, which are Penstock's")
    return options


def _credential(queue: QueueSettings) -> Credential | None:
    credential = find_credential(queue.label, queue.entry.options)
    if credential is not None and credential.kind is not CredentialKind.TOKEN:
        raise BadSettings(f"queue {queue.label}: HTCondor takes tokens; give token_file or token_command, no proxy")
    return credential
