"""Batch system `arc`: pilots as jobs of an ARC compute element, through A-REX's REST interface.

A submission makes jobs in bulk and uploads one script to each. What a submitter that died in between has left is a job
without its script: it is unknown to `poll`, and the next submission completes it. A-REX lets no user release a held
job: a submission leaves one as it is. arc_options.py says what a queue may say, docs/how-to/arc.md what to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus

from structlog import get_logger

from executors.pilots.batch import arc_jobs
from executors.pilots.batch.arc_delegation import Delegation, delegate, renew_ending
from executors.pilots.batch.arc_description import SCRIPT, STDERR, STDOUT, describe
from executors.pilots.batch.arc_jobs import ArcJob, find_jobs
from executors.pilots.batch.arc_options import ArcOptions
from executors.pilots.batch.arc_rest import ArcRest, Verdict, conversation
from executors.pilots.batch.credentials import CurrentCredential, find_credential
from executors.pilots.port import (
    OUTPUT_LIMIT,
    BatchAnswer,
    PilotOutput,
    PilotRequest,
    QueueSettings,
    Submission,
)
from executors.pilots.program import PilotProgram, script
from pipeline.errors import BadSettings, BatchSystemUnavailable

_AT_ONCE = 100
"""Jobs that one request makes."""

_log = get_logger("pilots")


class ArcBatchSystem:
    """One queue of a compute element."""

    def __init__(self, queue: QueueSettings) -> None:
        """Raises BadSettings for options that make no sense."""
        self._label = queue.label
        self._entry = queue.entry
        self._options = ArcOptions.of(queue)
        credential = find_credential(queue.label, queue.entry.options)
        if credential is None:
            raise BadSettings(f"queue {queue.label}: an ARC compute element wants a token_... or a proxy_... option")
        self._credential = credential

    def submit(self, requests: Sequence[PilotRequest], program: PilotProgram) -> Mapping[str, Submission]:
        """Make jobs in bulk, and upload the script of each."""
        wanted = {request.tag: request for request in requests}
        if not wanted:
            return {}
        with self._conversation() as (rest, credential):
            found = find_jobs(rest, wanted)
            known = {tag: job for tag, (job, *_) in found.items() if job.arrived or not job.ended}
            new = [tag for tag in wanted if tag not in known]
            delegation = delegate(rest, credential.text) if new and self._options.delegate else None
            made, refused = self._make(rest, new, delegation)
            bare = made | {tag: job.id for tag, job in known.items() if not job.arrived}
            lost = _upload(rest, bare, {tag: script(program, {tag: wanted[tag].secret}, tag) for tag in bare})
            chosen = made | {tag: job.id for tag, job in known.items()}
            taken = {tag: one for tag, one in chosen.items() if one not in {verdict.id for verdict in lost}}
            everything = {job.id for jobs in found.values() for job in jobs} | set(chosen.values())
            _forget(rest, everything - set(taken.values()))
            self._complain(taken, [*refused, *lost])
            ends = self._ends(rest, known, dict.fromkeys(made, delegation))
        return {tag: Submission(one, ends.get(tag)) for tag, one in taken.items()}

    def poll(self, tags: Sequence[str]) -> Mapping[str, BatchAnswer]:
        """What the job manager knows now; queued, held or running in the batch system: a minute ago."""
        if not tags:
            return {}
        with self._conversation() as (rest, credential):
            jobs = [job for job, *_ in find_jobs(rest, tags).values() if job.arrived]
            if self._options.delegate:
                live = [job.id for job in jobs if not job.ended]
                renew_ending(rest, rest.delegations(live), credential.text, datetime.now(UTC))
            return arc_jobs.answers(rest, jobs)

    def remove(self, tags: Sequence[str]) -> None:
        """Kill those that live, clean those that have ended. Those without a script leave nothing."""
        if not tags:
            return
        with self._conversation() as (rest, _):
            jobs = [job for same in find_jobs(rest, tags).values() for job in same]
            _must(rest.act("kill", [job.id for job in jobs if not job.ended]), self._label)
            _must(rest.act("clean", [job.id for job in jobs if job.ended or not job.arrived]), self._label)

    def fetch_output(self, tags: Sequence[str]) -> Mapping[str, PilotOutput]:
        """From the jobs' session folders."""
        if not tags:
            return {}
        with self._conversation() as (rest, _):
            jobs = [job for job, *_ in find_jobs(rest, tags).values() if job.arrived]
            names = [(job.id, stream) for job in jobs for stream in (STDOUT, STDERR)]
            texts = rest.each(lambda name: rest.tail(*name, OUTPUT_LIMIT).decode(errors="replace"), names)
            by_name = dict(zip(names, texts, strict=True))
        return {job.tag: PilotOutput(by_name[job.id, STDOUT], by_name[job.id, STDERR]) for job in jobs}

    @contextmanager
    def _conversation(self) -> Iterator[tuple[ArcRest, CurrentCredential]]:
        credential = self._credential.current()
        with conversation(self._label, self._options, self._credential.kind, credential) as rest:
            yield rest, credential

    def _make(
        self, rest: ArcRest, tags: Sequence[str], delegation: Delegation | None
    ) -> tuple[dict[str, str], list[Verdict]]:
        """The jobs that were made, by tag; what was said about the others."""
        made: dict[str, str] = {}
        refused: list[Verdict] = []
        for start in range(0, len(tags), _AT_ONCE):
            chunk = tags[start : start + _AT_ONCE]
            text = describe(chunk, self._entry, self._options, delegation.id if delegation else None)
            for tag, verdict in zip(chunk, rest.create(text, len(chunk)), strict=True):
                if verdict.good and verdict.id:
                    made[tag] = verdict.id
                else:
                    refused.append(verdict)
        return made, refused

    def _complain(self, taken: Mapping[str, str], refused: Sequence[Verdict]) -> None:
        if not refused:
            return
        words = f"{refused[0].code} {refused[0].reason}"
        if not taken:
            raise BatchSystemUnavailable(f"queue {self._label}: A-REX took no pilot: {words}")
        _log.warning("pilots_refused", site_queue=self._label, count=len(refused), reason=words)

    def _ends(
        self, rest: ArcRest, known: Mapping[str, ArcJob], made: Mapping[str, Delegation | None]
    ) -> dict[str, datetime | None]:
        """When the delegated proxies end, by tag."""
        if not self._options.delegate:
            return {}
        before = rest.each(lambda job: (job.tag, arc_jobs.proxy_end(rest, job)), list(known.values()))
        return dict(before) | {tag: delegation.ends_at for tag, delegation in made.items() if delegation is not None}


def _upload(rest: ArcRest, ids: Mapping[str, str], scripts: Mapping[str, str]) -> list[Verdict]:
    """Give each job its script, by tag; what was said where that failed."""
    verdicts = rest.each(lambda tag: rest.put(ids[tag], SCRIPT, scripts[tag].encode()), list(ids))
    return [verdict for verdict in verdicts if not verdict.good]


def _forget(rest: ArcRest, ids: Collection[str]) -> None:
    """Jobs that never got a script, and will not."""
    rest.act("kill", list(ids))
    rest.act("clean", list(ids))


def _must(verdicts: Sequence[Verdict], label: str) -> None:
    """A job that is gone is fine."""
    for verdict in verdicts:
        if not verdict.good and verdict.code != HTTPStatus.NOT_FOUND:
            raise BatchSystemUnavailable(f"queue {label}: A-REX, job {verdict.id}: {verdict.code} {verdict.reason}")
