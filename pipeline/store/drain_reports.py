"""What is left of a drain, counted, and why it is left.

Jobs are counted before pilots: a pilot outlives its jobs, so that none is missed in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select

from pipeline.queue_views import LIVE_WITHIN, load_of
from pipeline.store import drains
from pipeline.store.autoclusters import requirement_of
from pipeline.store.database import Database, Transaction, in_chunks
from pipeline.store.drains import Drain
from pipeline.store.instances import InstanceRow, list_instances
from pipeline.store.tables import autoclusters, deferred_messages, jobs, pilots, requirements, sites, steps, vos
from schemas.drain_views import OF_PROCESSES, DrainKind, DrainLine, DrainReport, DrainState, Thing
from schemas.states import JOB_ON_PILOT, PILOT_ACTIVE, PILOT_LIVE, PILOT_PENDING, JobState, PilotState, StepState

_STEPS_AT_ONCE = 200
_WITH_JOBS = (StepState.RUNNING, StepState.BLOCKED, StepState.CANCELLED)
"""Steps whose jobs may be on pilots; those of a cancelled one end when their pilots confirm it."""
_JOB_WHYS = {
    JobState.MATCHED: "assigned, and their pilots are about to start them",
    JobState.RUNNING: "they run, and may go on until they have ended",
    JobState.STALLED: "their pilots fell silent: they are heard again, or their jobs start again elsewhere",
    JobState.COMPLETING: "they have ended, and what they wrote is being compared",
}
_TAKEN_BACK = "not begun: their batch systems are asked to take them back"
_PILOT_WHYS = {
    PilotState.RUNNING: "told to take no more jobs; they end after those that they have",
    PilotState.DRAINING: "they end after the jobs that they have",
    PilotState.LOST: "silent: told to end when they are heard again, unless their batch systems say that they are gone",
}


def report(tx: Transaction, drain: Drain, *, seen_by: int | None = None) -> DrainReport:
    """All that is left of it; `seen_by`: only what is of this VO, and processes."""
    lines = _of_processes(tx, drain) if drain.kind in OF_PROCESSES else _of_sites(tx, drain, seen_by)
    return DrainReport(**drain.view().model_dump(), left=tuple(lines))


def judge(database: Database, drain_id: int, *, seen_by: int | None = None) -> DrainReport:
    """The report of a drain, for `seen_by` of this VO's part; when nothing at all holds it up any more, it is drained
    from now on, whoever asks: upkeep may be away. Raises NotFound."""

    def look(tx: Transaction) -> tuple[Drain, DrainReport]:
        drain = drains.find(tx, drain_id, seen_by=seen_by)
        return drain, report(tx, drain, seen_by=seen_by)

    drain, found = database.read(look)
    if found.state not in {DrainState.DRAINING, DrainState.OVERDUE}:
        return found
    if found.holding:
        if drain.silent_since is not None:
            database.transact(partial(drains.heard, drain_id=drain_id))
        return found
    if seen_by is not None and drain.vo_id is None:
        judge(database, drain_id)  # of others something may be left
        return database.read(look)[1]
    silent = any(line.what is Thing.PROCESSES for line in found.left)
    is_news = database.transact(partial(drains.latch, drain_id=drain_id, by_silence=silent))
    return database.read(look)[1] if is_news else found


def _of_sites(tx: Transaction, drain: Drain, seen_by: int | None) -> Iterator[DrainLine]:
    vo_id = seen_by if drain.vo_id is None else drain.vo_id
    site_id = None
    if drain.kind is DrainKind.SITE:
        site_id = tx.scalar(select(sites.c.id).where(sites.c.name == drain.target))
    names = _Names(tx)
    yield from _jobs(tx, names, site_id, vo_id)
    yield from _pilots(tx, names, site_id, vo_id)


class _Names:
    """Of sites and VOs, by id; empty for one that was made after they were read, or for none."""

    def __init__(self, tx: Transaction) -> None:
        self._sites: dict[int | None, str] = {row.id: row.name for row in tx.rows(select(sites.c.id, sites.c.name))}
        self._vos: dict[int, str] = {row.id: row.name for row in tx.rows(select(vos.c.id, vos.c.name))}

    def site(self, site_id: int | None) -> str:
        return self._sites.get(site_id, "")

    def vo(self, vo_id: int) -> str:
        return self._vos.get(vo_id, "")


def _jobs(tx: Transaction, names: _Names, site_id: int | None, vo_id: int | None) -> Iterator[DrainLine]:
    """Those on pilots, by state, site and VO."""
    groups: defaultdict[tuple[str, str, JobState], list[Row[Any]]] = defaultdict(list)
    for row in _jobs_on_pilots(tx, site_id, vo_id):
        groups[names.site(row.site_id), names.vo(row.vo_id), JobState(row.state)].append(row)
    walls = _wall_times(tx, {row.autocluster_id for rows in groups.values() for row in rows})
    for (site, vo, state), rows in sorted(groups.items()):
        yield DrainLine(
            what=Thing.JOBS,
            count=sum(row.many for row in rows),
            state=state,
            site=site or None,
            vo=vo,
            why=_JOB_WHYS[state],
            seconds_left=_longest(_seconds_left(tx.now, state, walls.get(row.autocluster_id), row) for row in rows),
        )


def _jobs_on_pilots(tx: Transaction, site_id: int | None, vo_id: int | None) -> list[Row[Any]]:
    """Sought by their steps: there is no index of jobs by site, and those that complete may have no pilot any more."""
    columns = (jobs.c.site_id, jobs.c.vo_id, jobs.c.state, jobs.c.autocluster_id)
    times = (func.max(jobs.c.changed_at).label("changed_at"), func.max(pilots.c.ends_at).label("ends_at"))
    query = select(*columns, *times, func.count().label("many")).outerjoin(pilots, pilots.c.id == jobs.c.pilot_id)
    if site_id is not None:
        query = query.where(jobs.c.site_id == site_id)
    if vo_id is not None:
        query = query.where(jobs.c.vo_id == vo_id)
    found: list[Row[Any]] = []
    step_ids = [row.id for row in tx.rows(select(steps.c.id).where(steps.c.state.in_(_WITH_JOBS)))]
    for chunk in in_chunks(step_ids, _STEPS_AT_ONCE):
        here = (jobs.c.step_id.in_(chunk), jobs.c.state.in_(sorted(JOB_ON_PILOT)))
        found += tx.rows(query.where(*here).group_by(*columns))
    return found


def _wall_times(tx: Transaction, autocluster_ids: Iterable[int | None]) -> dict[int, int]:
    """The longest that a job of each autocluster may run (s)."""
    found: dict[int, int] = {}
    query = select(autoclusters.c.id, requirements.c.body).join(
        requirements, requirements.c.id == autoclusters.c.requirement_id
    )
    for chunk in in_chunks(sorted({one for one in autocluster_ids if one is not None})):
        for row in tx.rows(query.where(autoclusters.c.id.in_(chunk))):
            found[row.id] = max(one.needs.wall_time for one in requirement_of(row.body).specifications())
    return found


def _seconds_left(now: datetime, state: JobState, wall_time: int | None, row: Row[Any]) -> float | None:
    """How long jobs that began at `row.changed_at` at the latest may go on; None where no wall time bounds it."""
    if state is JobState.COMPLETING or wall_time is None:
        return None
    ran = 0.0 if state is JobState.MATCHED else (now - row.changed_at).total_seconds()
    until_pilots_end = wall_time if row.ends_at is None else (row.ends_at - now).total_seconds()
    return max(0.0, min(wall_time - ran, until_pilots_end))


def _longest(seconds: Iterable[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return max(known, default=None)


def _pilots(tx: Transaction, names: _Names, site_id: int | None, vo_id: int | None) -> Iterator[DrainLine]:
    """Those that live, by state, site, VO, and what they were told."""
    told = (pilots.c.drain_requested, pilots.c.remove_requested)
    columns = (pilots.c.site_id, pilots.c.vo_id, pilots.c.state, *told)
    last = func.max(pilots.c.ends_at).label("ends_at")
    query = select(*columns, last, func.count().label("many")).where(pilots.c.state.in_(PILOT_LIVE)).group_by(*columns)
    conditions: list[ColumnElement[bool]] = []
    if site_id is not None:
        conditions.append(pilots.c.site_id == site_id)
    if vo_id is not None:
        conditions.append(pilots.c.vo_id == vo_id)
    # as everywhere: MariaDB would go through all pilots that a VO or a site ever had
    hinted = query.with_hint(pilots, "FORCE INDEX (ix_pilots_state_last_seen)", "mysql").where(*conditions)
    lines: defaultdict[tuple[str, str, PilotState, str], list[Row[Any]]] = defaultdict(list)
    for row in tx.rows(hinted):
        state = PilotState(row.state)
        lines[names.site(row.site_id), names.vo(row.vo_id), state, _pilot_why(state, row)].append(row)
    for (site, vo, state, why), rows in sorted(lines.items()):
        ends = max((row.ends_at for row in rows if row.ends_at is not None), default=None)
        yield DrainLine(
            what=Thing.PILOTS,
            count=sum(row.many for row in rows),
            state=state,
            site=site,
            vo=vo,
            why=why,
            seconds_left=None
            if ends is None or state not in PILOT_ACTIVE
            else max(0.0, (ends - tx.now).total_seconds()),
        )


def _pilot_why(state: PilotState, row: Row[Any]) -> str:
    if state in PILOT_PENDING:
        return _TAKEN_BACK if row.remove_requested else "not begun: about to be taken back"
    if row.remove_requested:
        return "their batch systems are asked to end them now"
    if state is PilotState.RUNNING and not row.drain_requested:
        return "about to be told to take no more jobs"
    return _PILOT_WHYS[state]


def _of_processes(tx: Transaction, drain: Drain) -> Iterator[DrainLine]:
    """Those that the wish is meant for and that have not obeyed yet, with what they hold."""
    for row in list_instances(tx):
        if drain.kind is DrainKind.INSTANCE:
            if row.id == drain.target:
                yield from _process(row, row.in_flight, None)
        elif drain.target in row.queues and row.started_at <= drain.started_at:
            load = load_of(row, drain.target)
            if load is not None or not row.loads:  # one that tells of others alone has ended this one
                yield from _process(row, row.in_flight if load is None else load.in_flight, drain.target)
    if drain.kind is DrainKind.QUEUE:
        yield from _deferred(tx, drain.target)


def _process(row: InstanceRow, in_flight: int, queue: str | None) -> Iterator[DrainLine]:
    is_silent = row.silence > LIVE_WITHIN
    if in_flight:
        why = "delivered again to another: their process is silent" if is_silent else "received, and being finished"
        yield DrainLine(
            what=Thing.MESSAGES, count=in_flight, instance=row.id, queue=queue, why=why, holds=not is_silent
        )
    yield DrainLine(
        what=Thing.PROCESSES,
        count=1,
        state=row.state,
        instance=row.id,
        queue=queue,
        why=_process_why(row, in_flight, is_silent=is_silent),
        holds=not is_silent,
    )


def _process_why(row: InstanceRow, in_flight: int, *, is_silent: bool) -> str:
    if is_silent:
        return f"silent for {row.silence:.0f} s: killed, or cut off; after a while it holds nothing up"
    if in_flight:
        return "it ends after what it has received, at its PENSTOCK_DRAIN_DEADLINE at the latest"
    return "it is about to end" if row.state == "draining" else "it is about to be told"


def _deferred(tx: Transaction, queue: str) -> Sequence[DrainLine]:
    many = int(tx.scalar(select(func.count()).select_from(deferred_messages).where(deferred_messages.c.queue == queue)))
    if not many:
        return ()
    why = "deferred until they are due; whoever serves the queue then has them"
    return (DrainLine(what=Thing.MESSAGES, count=many, state="deferred", queue=queue, why=why, holds=False),)
