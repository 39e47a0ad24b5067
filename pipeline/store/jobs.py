"""Jobs and their transitions: the one place where a job's state changes.

Callers lock rows, decide, and `apply` changes; every transition is guarded, writes its event, and keeps
`waiting_jobs` and `limits` true in the same transaction. Lock order: slots, waiting_jobs, jobs, limits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, case, delete, insert, literal, or_, select, update

from pipeline.store.database import CHUNK, Contended, Transaction, in_chunks
from pipeline.store.losers import LostAttempt, doom
from pipeline.store.tables import job_events, jobs, limits, peeks, waiting_jobs
from schemas.lifecycle import Losses, Verdict
from schemas.states import JOB_OCCUPYING, JOB_ON_PILOT, JOB_TRANSITIONS, JobState

MAX_REASON = 500
_RANGES = 50
"""Ranges per statement; SQLite refuses expressions of great depth."""
_EVENT = ("job_id", "attempt", "from_state", "to_state", "pilot_id", "reason", "at")
_LOSING = frozenset({JobState.RECEIVED, JobState.FAILED, JobState.KILLED})
_GONE_FROM_PILOT = frozenset({JobState.RECEIVED, JobState.WAITING})


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

    @property
    def losses(self) -> Losses:
        """Its two counters and the wish to kill it, as the lifecycle rules want them."""
        return Losses(self.infrastructure_losses, self.payload_failures, self.kill_requested)


_COLUMNS = tuple(jobs.c[name] for name in JobRow.__slots__)


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


def columns() -> Select[Any]:
    """A query of all that a JobRow holds, to be narrowed by the caller within the store."""
    return select(*_COLUMNS)


def of_pilot(tx: Transaction, pilot_id: int, states: Iterable[JobState] = JOB_OCCUPYING) -> list[JobRow]:
    """The jobs that belong to a pilot's attempts, locked."""
    return lock_where(tx, columns().where(jobs.c.pilot_id == pilot_id, jobs.c.state.in_(states)))


def apply(tx: Transaction, changes: Sequence[Change]) -> None:
    """Make the changes and write their events.

    Raises ValueError for a transition that the table forbids, Contended when rows are not as they were locked or
    a limit has no room left: the transaction is then run again from its read.
    """
    if not changes:
        return
    for change in changes:
        if change.to not in JOB_TRANSITIONS[change.job.state]:
            raise ValueError(f"job {change.job.id} may not go from {change.job.state} to {change.to}")
    _leave_waiting(tx, changes)
    for group in _grouped(changes):
        _update(tx, group)
    _join_waiting(tx, changes)
    _write_events(tx, changes)
    _drop_peeks(tx, changes)
    _doom_losers(tx, changes)
    _move_limits(tx, changes)


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
    values = row._asdict()
    return JobRow(**{**values, "state": JobState(values["state"])})


def _grouped(changes: Sequence[Change]) -> Iterable[list[Change]]:
    groups: defaultdict[tuple[Any, ...], list[Change]] = defaultdict(list)
    for change in changes:
        names = tuple(name for name, _ in change.values)
        groups[change.job.state, change.to, change.wake_at, names].append(change)
    return groups.values()


def _update(tx: Transaction, group: list[Change]) -> None:
    first = group[0]
    values: dict[str, Any] = {
        "state": first.to,
        "wake_at": first.wake_at,
        "changed_at": tx.now,
        "dead_letter_id": None,  # whatever letter names it, it got over that
    }
    if first.to in _GONE_FROM_PILOT:
        values |= {"pilot_id": None, "site_id": None, "absences": 0}
    if first.to is JobState.MATCHED:
        values["attempt"] = jobs.c.attempt + 1
    for start in range(0, len(group), CHUNK):
        part = group[start : start + CHUNK]
        ids = [change.job.id for change in part]
        changed = update(jobs).where(jobs.c.id.in_(ids), jobs.c.state == first.job.state)
        matched = tx.run(changed.values({**values, **_own_values(part)}))
        if matched != len(part):
            raise Contended(f"{len(part) - matched} of {len(part)} jobs left {first.job.state} under our lock")


def _own_values(part: Sequence[Change]) -> dict[str, Any]:
    """What each change sets by itself: a constant where all agree, else chosen by id, in one statement all the same."""
    own = {change.job.id: {"reason": change.reason[:MAX_REASON] or None, **dict(change.values)} for change in part}
    chosen: dict[str, Any] = {}
    for name in own[part[0].job.id]:
        of_job = {job_id: values[name] for job_id, values in own.items()}
        first = of_job[part[0].job.id]
        alike = all(value == first for value in of_job.values())
        chosen[name] = first if alike else case(of_job, value=jobs.c.id)
    return chosen


def _leave_waiting(tx: Transaction, changes: Sequence[Change]) -> None:
    """By whole ranges of the key: measured, MariaDB reads all of the table for tuples, `(a, b, c) IN (...)`."""
    of_level: defaultdict[tuple[int | None, int], list[int]] = defaultdict(list)
    for change in changes:
        if change.job.state is JobState.WAITING:
            of_level[change.job.autocluster_id, -change.job.priority].append(change.job.id)
    ranges = [
        (waiting_jobs.c.autocluster_id == cluster)
        & (waiting_jobs.c.descent == descent)
        & waiting_jobs.c.job_id.in_(part)
        for (cluster, descent), ids in sorted(of_level.items())
        for part in in_chunks(sorted(ids))
    ]
    for some in in_chunks(ranges, _RANGES):
        tx.run(delete(waiting_jobs).where(or_(*some)))


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
    return select(
        jobs.c.id, jobs.c.attempt, literal(from_state.value), jobs.c.state, jobs.c.pilot_id, jobs.c.reason, now
    ).where(jobs.c.id.in_(ids))


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


def _move_limits(tx: Transaction, changes: Sequence[Change]) -> None:
    moves: defaultdict[int, int] = defaultdict(int)
    for change in changes:
        site_after = dict(change.values).get("site_id", change.job.site_id)
        if change.job.state in JOB_OCCUPYING and change.job.site_id is not None:
            moves[change.job.site_id] -= 1
        if change.to in JOB_OCCUPYING and site_after is not None:
            moves[site_after] += 1
    for site_id, move in sorted(moves.items()):
        if move:
            _move_limit(tx, site_id, move)


def _move_limit(tx: Transaction, site_id: int, move: int) -> None:
    of_site = (limits.c.kind == "site", limits.c.subject_id == site_id)
    room = (limits.c.running + move <= limits.c.maximum) | limits.c.maximum.is_(None)
    guard = (*of_site, room) if move > 0 else of_site
    moved = tx.run(update(limits).where(*guard).values(running=limits.c.running + move))
    if not moved and move > 0 and tx.scalar(select(limits.c.id).where(*of_site)) is not None:
        raise Contended(f"site {site_id} has no room for {move} more running jobs")
