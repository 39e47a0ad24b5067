"""Many jobs that are on no pilot moved at once, set-based: what `jobs.apply` promises, without a value per job.

For commands that a person gives: a hundred thousand jobs are killed, retried or withdrawn alike. `lock_many` takes
the locks in the order that everybody keeps (waiting_jobs, jobs), `move_many` makes the transition under them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, literal, or_, select, update

from pipeline.store.database import CHUNK, Contended, Transaction
from pipeline.store.tables import job_events, jobs, waiting_jobs
from pipeline.store.transition_log import tell_each, tell_moved, tells_each
from schemas.states import JOB_ON_PILOT, JOB_TRANSITIONS, JobState

IDLE = frozenset(JobState) - JOB_ON_PILOT
"""States without an attempt: nothing but the job's own row, its place in `waiting_jobs` and its events changes."""
_RANGES = 50
"""Ranges per statement; SQLite refuses expressions of great depth."""
_LONG = 8
"""A run of so many ids or more is named by its ends."""


@dataclass(frozen=True, slots=True)
class Move:
    """What many jobs in one state shall become; `values` are further columns, the same for all."""

    from_state: JobState
    to: JobState
    reason: str
    values: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """What jobs have in common that a command treats alike."""

    campaign_id: int
    step_id: int
    state: JobState
    is_stamped: bool
    """A dead letter names them."""


def lock_many(tx: Transaction, ids: Sequence[int]) -> dict[Kind, list[int]]:
    """The jobs of these ids that exist, locked with their rows of `waiting_jobs`: ascending ids by kind."""
    ids = sorted(set(ids))
    for condition in rows_of_waiting(tx, ids):
        tx.lock(select(waiting_jobs.c.job_id).where(condition))
    found: defaultdict[Kind, list[int]] = defaultdict(list)
    stamped = jobs.c.dead_letter_id.is_not(None).label("stamped")
    columns = (jobs.c.campaign_id, jobs.c.step_id, jobs.c.state, stamped, jobs.c.id)
    for condition in among(jobs.c.id, ids):
        rows = tx.lock(select(*columns).where(condition).order_by(jobs.c.id))
        for values, of_kind in groupby(sorted(map(tuple, rows)), key=itemgetter(0, 1, 2, 3)):
            campaign_id, step_id, state, is_stamped = values
            kind = Kind(campaign_id, step_id, JobState(state), bool(is_stamped))
            found[kind] += [values[-1] for values in of_kind]
    return found


def move_many(tx: Transaction, ids: Sequence[int], move: Move) -> None:
    """Move jobs that `lock_many` gave, all in `from_state`; write their events and keep `waiting_jobs` true.

    Raises ValueError for a transition that the table forbids or that is about a pilot, Contended when rows
    are not as they were locked: the transaction is then run again from its read.
    """
    is_idle = move.from_state in IDLE and move.to in IDLE - {JobState.WAITING}
    if not is_idle or move.to not in JOB_TRANSITIONS[move.from_state]:
        raise ValueError(f"{len(ids)} jobs may not go from {move.from_state} to {move.to} at once")
    ids = sorted(ids)
    if move.from_state is JobState.WAITING:
        for condition in rows_of_waiting(tx, ids):
            tx.run(delete(waiting_jobs).where(condition))
    changed = sum(_move(tx, condition, move) for condition in among(jobs.c.id, ids))
    if changed != len(ids):
        raise Contended(f"{len(ids) - changed} of {len(ids)} jobs left {move.from_state} under our lock")
    tell_moved(tx, ((job_id, move.from_state, move.to, move.reason) for job_id in ids))
    if tells_each():
        states = {"from_state": move.from_state.value, "to_state": move.to.value, "reason": move.reason or None}
        tell_each(tx, [{"job_id": job_id, **states} for job_id in ids])


def among(column: ColumnElement[int], ids: Sequence[int]) -> Iterator[ColumnElement[bool]]:
    """Conditions that together name exactly these ascending ids, one for each statement, in order: jobs of an array
    follow one another, and a database is told a range in less time than its members."""
    singles: list[int] = []
    ranges: list[ColumnElement[bool]] = []
    for run in _runs(ids):
        if len(run) < _LONG:
            singles += run
        else:
            ranges.append(column.between(run[0], run[-1]))
        if len(ranges) == _RANGES or len(singles) >= CHUNK:
            yield or_(*ranges, column.in_(singles))
            singles, ranges = [], []
    if ranges or singles:
        yield or_(*ranges, column.in_(singles))


def _runs(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    start = 0
    for position in range(1, len(ids) + 1):
        if position == len(ids) or ids[position] != ids[position - 1] + 1:
            yield ids[start:position]
            start = position


def rows_of_waiting(tx: Transaction, ids: Sequence[int]) -> Iterator[ColumnElement[bool]]:
    """Conditions that name the rows of `waiting_jobs` of those of the jobs that wait, by whole ranges of its key."""
    level = (jobs.c.autocluster_id, jobs.c.priority)
    of_level: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for condition in among(jobs.c.id, ids):
        waiting = select(jobs.c.id, *level).where(condition, jobs.c.state == JobState.WAITING)
        for row in tx.rows(waiting):
            of_level[row.autocluster_id, -row.priority].append(row.id)
    for (cluster, descent), members in sorted(of_level.items(), key=lambda level: level[0]):
        here = (waiting_jobs.c.autocluster_id == cluster) & (waiting_jobs.c.descent == descent)
        for condition in among(waiting_jobs.c.job_id, sorted(members)):
            yield here & condition


def _move(tx: Transaction, condition: ColumnElement[bool], move: Move) -> int:
    now = literal(tx.now, job_events.c.at.type)
    event = {
        "job_id": jobs.c.id,
        "attempt": jobs.c.attempt,
        "from_state": jobs.c.state,
        "to_state": literal(move.to.value),
        "pilot_id": jobs.c.pilot_id,
        "reason": literal(move.reason or None),
        "at": now,
    }
    here = (condition, jobs.c.state == move.from_state)
    tx.run(insert(job_events).from_select(list(event), select(*event.values()).where(*here)))
    values: dict[str, Any] = {
        "state": move.to,
        "reason": move.reason or None,
        "wake_at": None,
        "changed_at": tx.now,
        "dead_letter_id": None,  # whatever letter names it, it got over that
        **dict(move.values),
    }
    if move.to is JobState.RECEIVED:
        values |= {"pilot_id": None, "site_id": None, "absences": 0}
    return tx.run(update(jobs).where(*here).values(values))
