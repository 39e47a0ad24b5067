"""Pilots among the jobs of a compute element: found by their names, with what is known of them.

A-REX names jobs itself, and answers about jobs by its own names alone. So a tag is looked for in the documents of all
jobs of this user, in one call for 500 of them. A pilot counts as submitted once its script has arrived at the element:
until then it can't start, whatever became of who submitted it, so that the upload is what commits a submission.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from executors.pilots.batch.arc_description import SCRIPT, job_name
from executors.pilots.batch.arc_rest import ArcRest, Item
from executors.pilots.port import BatchAnswer, BatchState

_ENDED = frozenset({"FINISHED", "FAILED", "KILLED", "WIPED"})
_EARLY = frozenset({"ACCEPTING", "ACCEPTED", "PREPARING"})
"""States in which the script may not be there yet."""
_IN_BATCH = frozenset({"QUEUING", "HELD", "RUNNING", "EXITINGLRMS", "OTHER"})
"""What becomes of the job manager's RUNNING when the information system has looked at the batch system."""
_STATES = {
    "HELD": BatchState.HELD,
    **dict.fromkeys(("RUNNING", "EXITINGLRMS", "OTHER", "EXECUTED", "FINISHING", "KILLING"), BatchState.RUNNING),
    "FINISHED": BatchState.DONE,
    **dict.fromkeys(("FAILED", "KILLED", "WIPED"), BatchState.FAILED),
}
"""All others are queued."""
_EXIT_CODE = re.compile(r"^exitcode=(\d+)$", re.MULTILINE)
_NAME = re.compile(r"^jobname=(.*)$", re.MULTILINE)
_PROXY_END = re.compile(r"^delegexpiretime=(\d{14})Z$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ArcJob:
    """A job that has a pilot's name. `state`: A-REX's own word for it; `arrived`: its script is there."""

    id: str
    tag: str
    state: str
    arrived: bool
    document: Item

    @property
    def ended(self) -> bool:
        """Whether it will do nothing more."""
        return self.state in _ENDED


def find_jobs(rest: ArcRest, tags: Collection[str]) -> dict[str, list[ArcJob]]:
    """The jobs of these tags; where a tag has several, the one that counts is first."""
    mine = dict(_ours(rest, set(tags)))
    states = _states(rest, {one: document for one, (_, document) in mine.items()})
    doubtful = [one for one, state in states.items() if state in _EARLY or state in {"FAILED", "KILLED"}]
    there = dict(rest.each(lambda one: (one, _has_script(rest, one)), doubtful))
    found: defaultdict[str, list[ArcJob]] = defaultdict(list)
    for one, (tag, document) in mine.items():
        found[tag].append(ArcJob(one, tag, states[one], there.get(one, True), document))
    return {tag: sorted(jobs, key=lambda job: (not job.arrived, job.ended, job.id)) for tag, jobs in found.items()}


def _ours(rest: ArcRest, tags: Collection[str]) -> Iterator[tuple[str, tuple[str, Item]]]:
    """The jobs that have such a tag, with their documents; of others, who may be many, nothing is kept."""
    wanted = {job_name(tag): tag for tag in tags}
    nameless: dict[str, Item] = {}
    for one, document in rest.documents(rest.job_ids()):
        name = _text(document.get("Name"))
        if not name:  # in A-REX 6 documents have one from a job's first moment, in newer ones they have none
            nameless[one] = document
        elif name in wanted:
            yield one, (wanted[name], document)
    names = rest.each(lambda one: _first(_NAME, rest.control_file(one, "local")), list(nameless))
    for (one, document), name in zip(nameless.items(), names, strict=True):
        if name in wanted:
            yield one, (wanted[name], document)


def _states(rest: ArcRest, documents: Mapping[str, Item]) -> dict[str, str]:
    """Of this moment, but for what only the information system knows, from a minute ago: what a job does in the batch
    system. One of which it has said nothing yet is queued there."""
    now = rest.states() if documents else {}
    states = {}
    for one, document in documents.items():
        told = _told(document)
        current = now.get(one, told)
        states[one] = current if current != "RUNNING" else told if told in _IN_BATCH else "QUEUING"
    return states


def _told(document: Item) -> str:
    words = document.get("State", [])
    for word in words if isinstance(words, list) else [words]:
        if str(word).startswith("arcrest:"):
            return str(word).removeprefix("arcrest:")
    return "None"


def _has_script(rest: ArcRest, job_id: str) -> bool:
    return f"/{SCRIPT}" in rest.control_file(job_id, "input_status").split()


def answers(rest: ArcRest, jobs: Sequence[ArcJob]) -> dict[str, BatchAnswer]:
    """What the port says of these jobs, by tag."""
    return {job.tag: answer for job, answer in zip(jobs, rest.each(lambda job: _answer(rest, job), jobs), strict=True)}


def _answer(rest: ArcRest, job: ArcJob) -> BatchAnswer:
    state = _STATES.get(job.state, BatchState.QUEUED)
    if not job.ended:
        said = _text(job.document.get("OtherMessages")) or "its administrator may know why"
        reason = f"held by the batch system behind A-REX: {said}" if state is BatchState.HELD else ""
        return BatchAnswer(job.id, state, reason=reason)
    code = _exit_code(rest, job)
    if state is BatchState.DONE:
        return BatchAnswer(job.id, state, 0 if code is None else code)
    said = _text(job.document.get("Error")) or rest.control_file(job.id, "failed").strip() or job.state.lower()
    return BatchAnswer(job.id, state, code, said if code is None else f"exit code {code}: {said}")


def _exit_code(rest: ArcRest, job: ArcJob) -> int | None:
    """The information system is late; the job's own notes are not."""
    told = _text(job.document.get("ExitCode"))
    text = told if told.isdecimal() else _first(_EXIT_CODE, rest.control_file(job.id, "diag"))
    return int(text) if text else None


def proxy_end(rest: ArcRest, job: ArcJob) -> datetime | None:
    """When the proxy ends that this job has been given."""
    text = _first(_PROXY_END, rest.control_file(job.id, "local"))
    return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC) if text else None


def _text(value: object) -> str:
    return "; ".join(str(one) for one in value) if isinstance(value, list) else str(value or "")


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1) if found else ""
