"""Batch system `htcondor`: pilots are jobs of an HTCondor schedd, near or far, one cluster for each submission.

The tag is the job attribute `PenstockTag`, by which everything is asked for. The script that carries the pilot and its
secret is spooled, so that no file system is shared; the tag is its one argument. A job stays in the queue after its end
(`leave_in_queue`), with its output, until it is removed once more or `keep` seconds are over. A pilot that its node has
evicted is never started again. The pilot's output comes back when it has ended by itself: HTCondor brings none of a
job that runs, nor of one that was removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from executors.pilots.batch.credentials import Credential, CredentialKind, find_credential
from executors.pilots.batch.htcondor_ads import COMPLETED, TAG, Ad, job_id, phase, reason
from executors.pilots.batch.htcondor_options import DAY, SCRIPT, HtcondorOptions, submit_words
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


class HtcondorBatchSystem:
    """One queue of it."""

    def __init__(self, queue: QueueSettings) -> None:
        check_bindings(queue.label)
        self._options = HtcondorOptions.of(queue)
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


def answer(ad: Ad) -> BatchAnswer:
    """What a job's attributes say."""
    state = BatchState(phase(ad))
    code = ad.get("ExitCode") if ad["JobStatus"] == COMPLETED and not ad.get("ExitBySignal") else None
    return BatchAnswer(job_id(ad), state, code, reason(ad))


def _credential(queue: QueueSettings) -> Credential | None:
    credential = find_credential(queue.label, queue.entry.options)
    if credential is not None and credential.kind is not CredentialKind.TOKEN:
        raise BadSettings(f"queue {queue.label}: HTCondor takes tokens; give token_file or token_command, no proxy")
    return credential
