"""What Slurm's lists say of pilots: which tag each job is, what state that means, and why, in words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from executors.pilots.port import BATCH_ENDED, BatchAnswer, BatchState

JOB_NAME = "penstock"
COMMENT_LIMIT = 1000
"""Characters of a job's comment; Slurm refuses more than 1024."""
SQUEUE_FORMAT = "JobArrayID:|,State:|,exit_code:|,Reason:|,Comment:|"
SACCT_FORMAT = "JobID,State,ExitCode,Comment,SubmitLine"

_MARK = re.compile(r"penstock:(\d+):([\w.,-]+)")
_JOB = re.compile(r"(\d+)(?:_(\d+))?")
_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "RESV_DEL_HOLD"}
_HELD = {"REQUEUE_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
_ENDS = {
    "BOOT_FAIL": "its node did not boot",
    "CANCELLED": "it was cancelled",
    "DEADLINE": "it could not end before its deadline",
    "FAILED": "it failed",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it took more memory than it had asked for",
    "PREEMPTED": "it had to make room for another job",
    "REVOKED": "another cluster has taken it",
    "TIMEOUT": "it ran into its wall time",
}
_HOLDS = {
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held by its user",
    "BadConstraints": "no node is what it asks for",
    "DependencyNeverSatisfied": "it waits for what can't come",
    "launch_failed_requeued_held": "its launch failed, and Slurm holds it",
    "job_requeued_in_held_state": "it was put back and held",
}
_ORDER = (BatchState.RUNNING, BatchState.QUEUED, BatchState.HELD, BatchState.DONE, BatchState.FAILED)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tag is: the batch job (`JOBID` or `JOBID_INDEX`), and all tags of that job, one for each of its nodes."""

    job: str
    tags: tuple[str, ...]
    answer: BatchAnswer

    @property
    def is_live(self) -> bool:
        """Whether it may run yet."""
        return self.answer.state not in BATCH_ENDED


def comment(tags: Sequence[str], nodes: int) -> str:
    """What a submission carries, so that its tags are found again: in order of index, then of node."""
    return f"penstock:{nodes}:{','.join(tags)}"


def room_in_comment(tags: Sequence[str], nodes: int) -> int:
    """How many of these tags one submission takes, in whole batch jobs, but one batch job at the least."""
    length = len(comment((), nodes)) - 1
    fitting = 0
    for tag in tags:
        length += len(tag) + 1
        if length > COMMENT_LIMIT:
            break
        fitting += 1
    return max(fitting - fitting % nodes, nodes)


def handle_of(job: str, rank: int, nodes: int) -> str:
    """What we call a pilot there: its batch job, and which of its nodes where it has several."""
    return job if nodes == 1 else f"{job}.{rank}"


def places(squeue: str, sacct: str = "") -> Mapping[str, Sequence[Place]]:
    """Every tag in these lists, and where it is: the place that matters most first, should there be several."""
    found: defaultdict[str, list[Place]] = defaultdict(list)
    for job, state, code, reason, words in [*_fields(squeue), *_fields(sacct, reasons=False)]:
        mark, named = _MARK.search(words), _JOB.fullmatch(job)
        if mark is None or named is None:
            continue
        nodes, index = int(mark[1]), int(named[2] or 0)
        mine = tuple(mark[2].split(",")[index * nodes : (index + 1) * nodes])
        for rank, tag in enumerate(mine):
            found[tag].append(Place(job, mine, _answer(handle_of(job, rank, nodes), state, code, reason)))
    for several in found.values():
        several.sort(key=lambda place: _ORDER.index(place.answer.state))
    return found


def _fields(text: str, *, reasons: bool = True) -> Iterator[tuple[str, str, str, str, str]]:
    """Job, state, exit code, reason and what holds the mark; sacct knows no reason."""
    for line in text.splitlines():
        parts = line.split("|", 4 if reasons else 3)
        if len(parts) == (5 if reasons else 4):
            job, state, code, *rest = (part.strip() for part in parts)
            reason, words = rest if reasons else ("", rest[0])
            yield job, state.split()[0] if state else "", code, reason, words


def _answer(handle: str, state: str, code: str, reason: str) -> BatchAnswer:
    reason = "" if reason == "None" else reason.replace(" ", "_")
    if state in _HELD or (state in _QUEUED and _is_hold(reason)):
        return BatchAnswer(handle, BatchState.HELD, reason=_told(_HOLDS.get(reason, "held"), reason or state))
    if state in _QUEUED:
        return BatchAnswer(handle, BatchState.QUEUED, reason=reason and f"Slurm: {reason}")
    if state in _RUNNING:
        is_usual = state in {"RUNNING", "COMPLETING"}
        return BatchAnswer(handle, BatchState.RUNNING, reason="" if is_usual else f"Slurm: {state}")
    if state == "COMPLETED":
        return BatchAnswer(handle, BatchState.DONE, 0, "exit code 0")
    number = exit_code(code)
    if state == "FAILED" and number is not None:
        return BatchAnswer(handle, BatchState.FAILED, number, f"exit code {number}")
    detail = f"{state}, {reason}" if reason else state
    return BatchAnswer(handle, BatchState.FAILED, reason=_told(_ENDS.get(state, "it ended"), detail))


def _is_hold(reason: str) -> bool:
    return reason in _HOLDS or "held" in reason.lower()


def _told(words: str, detail: str) -> str:
    return f"{words} (Slurm: {detail})"


def exit_code(told: str) -> int | None:
    """As a shell tells it: 128 and the signal for what a signal ended; None where Slurm knows of no failure.

    squeue tells the wait status (newer ones CODE:SIGNAL), sacct CODE:SIGNAL.
    """
    if ":" in told:
        code, _, number = told.partition(":")
    elif told.isdecimal():
        code, number = str(int(told) >> 8), str(int(told) & 0x7F)
    else:
        return None
    if not (code.isdecimal() and number.isdecimal()):
        return None
    return int(code) or (128 + int(number) if int(number) else None)


def live(found: Mapping[str, Sequence[Place]], tags: Iterable[str]) -> list[Place]:
    """Every place where one of these tags may run yet."""
    return [place for tag in tags for place in found.get(tag, ()) if place.is_live]
