"""Jobs and their transitions: the one place where a job's state changes.

Callers lock rows, decide, and `apply` changes; every transition is guarded, writes its event, and keeps
`waiting_jobs` true in the same transaction. An attempt that ends is noted in `releases`, so that what limits and
shares count for it is given back; what they count is taken by matching. Lock order: slots, waiting_jobs, jobs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, case, delete, func, insert, literal, null, select, update

from pipeline.store import own_values
from pipeline.store.database import Contended, Transaction, in_chunks
from pipeline.store.durations import seconds_between
from pipeline.store.losers import LostAttempt, doom
from pipeline.store.tables import job_events, jobs, peeks, releases, waiting_jobs
from pipeline.store.transition_log import tell_each, tell_moved, tells_each
from schemas.lifecycle import Losses, Verdict
from schemas.shares import used_by
from schemas.states import JOB_OCCUPYING, JOB_ON_PILOT, JOB_TRANSITIONS, JobState

MAX_REASON = 500
_EVENT = ("job_id", "attempt", "from_state", "to_state", "pilot_id", "reason", "at", "core_seconds")
_LOSING = frozenset({JobState.RECEIVED, JobState.FAILED, JobState.KILLED})
_BEGUN = frozenset({JobState.RUNNING, JobState.STALLED})
_GONE_FROM_PILOT = frozenset({JobState.RECEIVED, JobState.WAITING})
GRANTED = ("cores", "memory", "disk", "gpus", "alternative", "charge")
"""What the caller says of an assignment, in `Change.values`."""
_NO_PILOT = {"pilot_id": None, "site_id": None, "absences": 0, "matched_at": None, **dict.fromkeys(GRANTED)}
_OUTCOMES = {JobState.DONE: "success", JobState.FAILED: "failure", JobState.KILLED: "failure"}
_RELEASE = ("job_id", "autocluster_id", "site_id", "cores", "charge", "is_started", "matched_at", "ended_at")


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job as read under lock."""

    id: int
    vo_id: int
    campaign_id: int
    step_id: int
    spec_id: int
    array_index: int
    state: JobState
    attempt: int
    priority: int
    pilot_id: int | None
    site_id: int | None
    autocluster_id: int | None
    kill_requested: bool
    absences: int
    infrastructure_losses: int
    payload_failures: int
    cores: int | None = None
    """What the present attempt was granted, and when: None where there is none, or release 0.2.0 assigned it."""
    memory: int | None = None
    disk: int | None = None
    gpus: int | None = None
    alternative: int | None = None
    charge: int | None = None
    matched_at: datetime | None = None

    @property
    def losses(self) -> Losses:
        """Its two counters and the wish to kill it, as the lifecycle rules want them."""
        return Losses(self.infrastructure_losses, self.payload_failures, self.kill_requested)


_COLUMNS = tuple(jobs.c[name] for name in JobRow.__slots__)
_PLAIN = _COLUMNS[: -len(GRANTED) - 1]
_STATE = JobRow.__slots__.index("state")
_STATES = {state.value: state for state in JobState}
"""Looked up faster than an enumeration's members by their values."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one locked job shall become. `values` are further columns."""

    job: JobRow
    to: JobState
    reason: str = ""
    wake_at: datetime | None = None
    values: tuple[tuple[str, Any], ...] = ()


def lock(tx: Transaction, ids: Iterable[int]) -> list[JobRow]:
    """The jobs of these ids that exist, locked, ordered by id."""
    found: list[JobRow] = []
    for chunk in in_chunks(sorted(set(ids))):
        found += lock_where(tx, select(*_COLUMNS).where(jobs.c.id.in_(chunk)))
    return found


def lock_where(tx: Transaction, query: Select[Any], *, skip_locked: bool = False) -> list[JobRow]:
    """The jobs of a query made by `columns()`, locked, ordered by id; without those that another holds, if asked."""
    return [_row(row) for row in tx.lock(query.order_by(jobs.c.id), skip_locked=skip_locked)]


def lock_waiting(tx: Transaction, ids: Iterable[int]) -> list[JobRow]:
    """The jobs of these ids, locked, without what they were granted; those that another holds are left out."""
    found: list[JobRow] = []
    for chunk in in_chunks(sorted(set(ids))):
        query = select(*_PLAIN).where(jobs.c.id.in_(chunk)).order_by(jobs.c.id)
        found += [_row(row) for row in tx.lock(query, skip_locked=True)]
    return found


def columns() -> Select[Any]:
    """A query of all that a JobRow holds, to be narrowed by the caller within the store."""
    return select(*_COLUMNS)


def of_pilot(tx: Transaction, pilot_id: int, states: Iterable[JobState] = JOB_OCCUPYING) -> list[JobRow]:
    """The jobs that belong to a pilot's attempts, locked."""
    return lock_where(tx, columns().where(jobs.c.pilot_id == pilot_id, jobs.c.state.in_(states)))


def apply(tx: Transaction, changes: Sequence[Change]) -> None:
    """Make the changes and write their events.

    Raises ValueError for a transition that the table forbids, Contended when rows are not as they were locked: the
    transaction is then run again from its read.
    """
    if not changes:
        return
    for change in changes:
        if change.to not in JOB_TRANSITIONS[change.job.state]:
            raise ValueError(f"job {change.job.id} may not go from {change.job.state} to {change.to}")
    _leave_waiting(tx, changes)
    _note_releases(tx, changes)
    for group in _grouped(changes):
        _update(tx, group)
    _join_waiting(tx, changes)
    _write_events(tx, changes)
    _drop_peeks(tx, changes)
    _doom_losers(tx, changes)
    tell_moved(tx, ((change.job.id, change.job.state, change.to, change.reason) for change in changes))
    if tells_each():
        tell_each(tx, [_told(change) for change in changes])


def verdict_change(tx: Transaction, job: JobRow, verdict: Verdict) -> Change:
    """The change that carries out a verdict of the lifecycle rules."""
    counters = (("infrastructure_losses", verdict.infrastructure), ("payload_failures", verdict.payload))
    wake_at = None if verdict.wait is None else tx.after(verdict.wait)
    return Change(job, verdict.to, verdict.reason, wake_at, counters)


def request_kill(tx: Transaction, found: Sequence[JobRow]) -> None:
    """Note the wish on jobs whose attempt must confirm it; the command goes out with the pilot's next heartbeat."""
    for chunk in in_chunks([job.id for job in found]):
        tx.run(update(jobs).where(jobs.c.id.in_(chunk)).values(kill_requested=True))


def set_absences(tx: Transaction, ids: Sequence[int], absences: int) -> None:
    """How many heartbeats in a row left these jobs out."""
    if ids:
        tx.run(update(jobs).where(jobs.c.id.in_(ids)).values(absences=absences))


def claim_received(tx: Transaction, step_id: int, most: int, wake_at: datetime) -> list[int]:
    """Up to `most` jobs of a step that no message names yet; they are the caller's to publish until `wake_at`."""
    query = (
        select(jobs.c.id)
        .where(
            jobs.c.step_id == step_id,
            jobs.c.state == JobState.RECEIVED,
            jobs.c.wake_at.is_(None),
            jobs.c.dead_letter_id.is_(None),
        )
        .order_by(jobs.c.id)
        .limit(most)
    )
    ids = [row.id for row in tx.lock(query, skip_locked=True)]
    set_wake_at(tx, ids, wake_at)
    return ids


def overdue(tx: Transaction, states: Iterable[JobState], most: int) -> list[tuple[int, JobState]]:
    """Up to `most` jobs in these states whose `wake_at` has passed, locked, the longest overdue first."""
    query = (
        select(jobs.c.id, jobs.c.state)
        .where(jobs.c.wake_at <= tx.now, jobs.c.state.in_(states))
        .order_by(jobs.c.wake_at)
        .limit(most)
    )
    return [(row.id, JobState(row.state)) for row in tx.lock(query, skip_locked=True)]


def set_wake_at(tx: Transaction, ids: Sequence[int], wake_at: datetime | None) -> None:
    """When reconcile shall look at these jobs."""
    for chunk in in_chunks(ids):
        tx.run(update(jobs).where(jobs.c.id.in_(chunk)).values(wake_at=wake_at))


def _row(row: Row[Any]) -> JobRow:
    values = list(row)
    values[_STATE] = _STATES[values[_STATE]]
    return JobRow(*values)


def _grouped(changes: Sequence[Change]) -> Iterable[list[Change]]:
    groups: defaultdict[tuple[Any, ...], list[Change]] = defaultdict(list)
    for change in changes:
        names = tuple(name for name, _ in change.values)
        groups[change.job.state, change.to, change.wake_at, names].append(change)
    return groups.values()


def _update(tx: Transaction, group: list[Change]) -> None:
    first = group[0]
    alike: dict[str, Any] = {
        "state": first.to,
        "wake_at": first.wake_at,
        "changed_at": tx.now,
        "dead_letter_id": None,  # whatever letter names it, it got over that
    }
    if first.to in _GONE_FROM_PILOT:
        alike |= _NO_PILOT
    if first.to is JobState.MATCHED:
        alike["matched_at"] = tx.now
    for part in in_chunks(group):
        changed = _update_part(tx, part, alike)
        if changed != len(part):
            raise Contended(f"{len(part) - changed} of {len(part)} jobs left {first.job.state} under our lock")


def _update_part(tx: Transaction, part: Sequence[Change], alike: Mapping[str, Any]) -> int:
    """Rows changed: what each change sets by itself is a constant where all agree, else it goes by the job's id."""
    first = part[0]
    names = ("reason", *(name for name, _ in first.values))
    own = [(change.reason[:MAX_REASON] or None, *(value for _, value in change.values)) for change in part]
    differing = [place for place, values in enumerate(zip(*own, strict=True)) if any(v != values[0] for v in values)]
    more = ("attempt",) if first.to is JobState.MATCHED else ()
    shared = {**alike, **{name: own[0][place] for place, name in enumerate(names) if place not in differing}}
    if not differing:
        shared |= {name: jobs.c[name] + 1 for name in more}
        ids = [change.job.id for change in part]
        return tx.run(update(jobs).where(jobs.c.id.in_(ids), jobs.c.state == first.job.state).values(shared))
    rows = [(change.job.id, *(values[place] for place in differing)) for change, values in zip(part, own, strict=True)]
    differ = tuple(names[place] for place in differing)
    wanted = own_values.Rows(("id",), differ, rows, shared, more, {"state": first.job.state.value})
    return own_values.change(tx, jobs, wanted)


def _leave_waiting(tx: Transaction, changes: Sequence[Change]) -> None:
    keys = sorted(
        (change.job.autocluster_id, -change.job.priority, change.job.id)
        for change in changes
        if change.job.state is JobState.WAITING and change.job.autocluster_id is not None
    )
    for part in in_chunks(keys):
        own_values.remove(tx, waiting_jobs, ("autocluster_id", "descent", "job_id"), part)


def _join_waiting(tx: Transaction, changes: Sequence[Change]) -> None:
    """From the rows as they have become: the database copies keys faster than we send them."""
    for chunk in in_chunks([change.job.id for change in changes if change.to is JobState.WAITING]):
        joined = select(jobs.c.autocluster_id, -jobs.c.priority, jobs.c.id).where(jobs.c.id.in_(chunk))
        tx.run(insert(waiting_jobs).from_select(["autocluster_id", "descent", "job_id"], joined))


def _write_events(tx: Transaction, changes: Sequence[Change]) -> None:
    """From the rows as they have become, but for those that have just lost the pilot that the event is to name."""
    leaving = [change for change in changes if change.to in _GONE_FROM_PILOT and change.job.pilot_id is not None]
    tx.add_all(
        job_events,
        [
            {
                "job_id": change.job.id,
                "attempt": change.job.attempt,
                "from_state": change.job.state,
                "to_state": change.to,
                "pilot_id": change.job.pilot_id,
                "reason": change.reason[:MAX_REASON] or None,
                "at": tx.now,
                "core_seconds": _core_seconds(change.job, tx.now),
            }
            for change in leaving
        ],
    )
    left = {change.job.id for change in leaving}
    of_kind: defaultdict[JobState, list[int]] = defaultdict(list)
    for change in changes:
        if change.job.id not in left:
            of_kind[change.job.state].append(change.job.id)
    for from_state, ids in of_kind.items():
        for chunk in in_chunks(ids):
            tx.run(insert(job_events).from_select(_EVENT, _as_events(tx, from_state, chunk)))


def _as_events(tx: Transaction, from_state: JobState, ids: Sequence[int]) -> Select[Any]:
    now = literal(tx.now, job_events.c.at.type)
    took: ColumnElement[Any] = null()
    if from_state in _BEGUN:
        seconds = func.round(jobs.c.cores * seconds_between(tx, jobs.c.matched_at, now))
        took = case((jobs.c.state.not_in(JOB_OCCUPYING), seconds))
    return select(
        jobs.c.id, jobs.c.attempt, literal(from_state.value), jobs.c.state, jobs.c.pilot_id, jobs.c.reason, now, took
    ).where(jobs.c.id.in_(ids))


def _told(change: Change) -> dict[str, Any]:
    job, values = change.job, dict(change.values)
    return {
        "job_id": job.id,
        "attempt": job.attempt + (change.to is JobState.MATCHED),
        "from_state": job.state.value,
        "to_state": change.to.value,
        "reason": change.reason or None,
        "campaign_id": job.campaign_id,
        "step_id": job.step_id,
        "vo_id": job.vo_id,
        "pilot_id": values.get("pilot_id", job.pilot_id),
        "site_id": values.get("site_id", job.site_id),
        "outcome": _OUTCOMES.get(change.to),
    }


def _core_seconds(job: JobRow, now: datetime) -> int | None:
    """What the attempt took of its cores, where it had begun and gives them back now."""
    if job.state not in _BEGUN or job.cores is None or job.matched_at is None:
        return None
    return used_by(job.cores, job.matched_at, now)


def _note_releases(tx: Transaction, changes: Sequence[Change]) -> None:
    """From the rows as they still are: what their attempts were granted is to be given back."""
    ended = [c.job.id for c in changes if c.job.state in JOB_OCCUPYING and c.to not in JOB_OCCUPYING]
    for chunk in in_chunks(ended):
        is_started = (jobs.c.state != JobState.MATCHED).label("is_started")
        now = literal(tx.now, releases.c.ended_at.type)
        taken = (jobs.c.autocluster_id, jobs.c.site_id, jobs.c.cores, jobs.c.charge, is_started, jobs.c.matched_at)
        noted = select(jobs.c.id, *taken, now).where(jobs.c.id.in_(chunk))
        tx.run(insert(releases).from_select(_RELEASE, noted))


def _drop_peeks(tx: Transaction, changes: Sequence[Change]) -> None:
    ended = [c.job.id for c in changes if c.job.state in JOB_OCCUPYING and c.to not in JOB_OCCUPYING]
    for chunk in in_chunks(ended):
        tx.run(delete(peeks).where(peeks.c.job_id.in_(chunk)))


def _doom_losers(tx: Transaction, changes: Sequence[Change]) -> None:
    lost = [
        LostAttempt(change.job.id, change.job.attempt, change.job.spec_id, change.job.vo_id, change.job.site_id)
        for change in changes
        if change.job.state in JOB_ON_PILOT and change.to in _LOSING
    ]
    if lost:
        doom(tx, lost)
