"""Every event of a job is counted once: transitions, jobs by state and site, restarts, core-seconds used and wasted.

Events get their ids when they are written and are seen when they are committed, so a higher id may be seen before a
lower one. Counting therefore goes up to an id that was the highest seen a while ago: all up to it have been given out
since then, are written, and those that are not committed yet are found by their locks, and waited for. Totals and the
mark move in one transaction. No clock is compared with another, and no job is read: the cost is that of what happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select, update

from pipeline.store import marks, metric_values
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.metric_values import Key
from pipeline.store.tables import attempts, controls, job_events, jobs, pilots
from schemas.lifecycle import cause_of_end
from schemas.states import JOB_FINAL, JOB_ON_PILOT, JobState

COUNTED, SEEN = "events_counted", "events_seen"
TRACED = "events_traced"
"""Where the traces of jobs have got to (`pipeline.store.traces`)."""
SETTLED = 10.0
"""Seconds after which an id that was given out belongs to a row that is written, if it ever will be."""
MOST = 20_000
"""Ids that one transaction counts at the most."""
_BACK = frozenset({JobState.RECEIVED, JobState.WAITING})
_IN_VAIN = (*_BACK, JobState.FAILED, JobState.KILLED)


def count(tx: Transaction, *, settled: float = SETTLED, most: int = MOST) -> bool:
    """Count the next events; whether there are more that may be counted now. Raises marks.Held."""
    counted = marks.lock(tx, COUNTED)
    seen = marks.lock(tx, SEEN)
    if counted.value < seen.value:
        if (tx.now - seen.at).total_seconds() < settled:
            return False
        last = min(seen.value, _first(tx, counted.value, seen.value) - 1 + most)
        new = (job_events.c.id > counted.value, job_events.c.id <= last)
        metric_values.add(tx, _deltas(tx, new, marks.committed(tx, _kinds(new))))
        marks.move(tx, COUNTED, last, seen.at if last == seen.value else counted.at)
        return True
    newest = _newest(tx)
    if newest > counted.value:
        marks.move(tx, SEEN, newest, tx.now)
    else:
        retreat(tx)
        marks.move(tx, COUNTED, newest, tx.now)
    return False


def forget(tx: Transaction, job_ids: Sequence[int]) -> None:
    """These locked jobs are about to be deleted with their events: count what is not counted, then count them out.

    Who holds the jobs reads events that are all committed, and waits for nobody who writes those of others.
    """
    counted = marks.lock(tx, COUNTED)
    deltas: Counter[Key] = Counter()
    for part in in_chunks(job_ids):
        new = (job_events.c.job_id.in_(part), job_events.c.id > counted.value)
        deltas.update(_deltas(tx, new, tx.rows(_kinds(new))))
        query = select(jobs.c.state, jobs.c.site_id, func.count().label("many")).where(jobs.c.id.in_(part))
        for row in tx.rows(query.group_by(jobs.c.state, jobs.c.site_id)):
            if row.state not in JOB_FINAL:
                deltas[_present(row.state, row.site_id)] -= row.many
    metric_values.add(tx, deltas)


def retreat(tx: Transaction) -> None:
    """Events were deleted: SQLite gives the ids of the last ones out again. A mark that nobody has set stays unset."""
    newest = _newest(tx)
    beyond = (controls.c.name.in_((COUNTED, SEEN, TRACED)), controls.c.value > newest)
    tx.run(update(controls).where(*beyond).values(value=newest))


def _newest(tx: Transaction) -> int:
    return tx.scalar(select(func.max(job_events.c.id))) or 0


def _first(tx: Transaction, begin: int, end: int) -> int:
    """The first event behind `begin`, else `end`: nobody goes through the millions of ids that retention deleted."""
    query = select(job_events.c.id).where(job_events.c.id > begin, job_events.c.id <= end)
    rows = marks.committed(tx, query.order_by(job_events.c.id).limit(1))
    return rows[0].id if rows else end


def _deltas(tx: Transaction, which: Sequence[ColumnElement[bool]], kinds: Sequence[Row[Any]]) -> Counter[Key]:
    vain = _in_vain(tx, which) if any(_is_in_vain(row) for row in kinds) else []
    sites = _sites(tx, {row.pilot_id for row in kinds if row.pilot_id is not None})
    deltas: Counter[Key] = Counter()
    for row in kinds:
        site = sites.get(row.pilot_id)
        deltas["penstock_job_transitions_total", (row.from_state, row.to_state)] += row.many
        if row.from_state is not None and row.from_state not in JOB_FINAL:
            deltas[_present(row.from_state, site)] -= row.many
        if row.to_state in JOB_FINAL:
            deltas["penstock_job_ends_total", (row.to_state, site)] += row.many
        else:
            deltas[_present(row.to_state, site)] += row.many
        deltas["penstock_used_core_seconds_total", (site,)] += int(row.core_seconds or 0)
    for row in vain:
        site, cause = sites.get(row.pilot_id), cause_of_end(row.from_state, row.to_state, row.outcome)
        deltas["penstock_wasted_core_seconds_total", (cause, site)] += int(row.core_seconds or 0)
        if row.to_state in _BACK:
            deltas["penstock_job_restarts_total", (cause, site)] += row.many
    return deltas


def _present(state: str, site_id: int | None) -> Key:
    """Only where a job is on a pilot it has a site."""
    return "penstock_jobs", (state, site_id if state in JOB_ON_PILOT else None)


def _kinds(which: Iterable[ColumnElement[bool]]) -> Select[Any]:
    kind = (job_events.c.from_state, job_events.c.to_state, job_events.c.pilot_id)
    sums = (func.count().label("many"), func.sum(job_events.c.core_seconds).label("core_seconds"))
    return select(*kind, *sums).where(*which).group_by(*kind)


def _is_in_vain(row: Row[Any]) -> bool:
    return row.to_state in _IN_VAIN and (row.from_state in JOB_ON_PILOT or row.from_state == JobState.FAILED)


def _in_vain(tx: Transaction, which: Iterable[ColumnElement[bool]]) -> Sequence[Row[Any]]:
    """Ends of attempts that were not done, by what their pilots reported of them. Those that fell back from
    `completing` had given their cores back before: the event of that says how much they took."""
    written = job_events.alias("written")
    before = and_(
        job_events.c.from_state == JobState.COMPLETING,
        written.c.job_id == job_events.c.job_id,
        written.c.attempt == job_events.c.attempt,
        written.c.to_state == JobState.COMPLETING,
    )
    reported = and_(attempts.c.job_id == job_events.c.job_id, attempts.c.attempt == job_events.c.attempt)
    kind = (job_events.c.from_state, job_events.c.to_state, job_events.c.pilot_id, attempts.c.outcome)
    took = func.sum(func.coalesce(job_events.c.core_seconds, written.c.core_seconds)).label("core_seconds")
    query = (
        select(*kind, func.count().label("many"), took)
        .outerjoin(attempts, reported)
        .outerjoin(written, before)
        .where(
            *which,
            job_events.c.to_state.in_(_IN_VAIN),
            or_(job_events.c.from_state.in_(JOB_ON_PILOT), job_events.c.from_state == JobState.FAILED),
        )
        .group_by(*kind)
    )
    return [row for row in tx.rows(query) if _is_in_vain(row)]


def _sites(tx: Transaction, pilot_ids: Iterable[int]) -> Mapping[int | None, int]:
    found: dict[int | None, int] = {}
    for part in in_chunks(sorted(pilot_ids)):
        query = select(pilots.c.id, pilots.c.site_id).where(pilots.c.id.in_(part))
        found |= {row.id: row.site_id for row in tx.rows(query)}
    return found
