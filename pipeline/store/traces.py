"""How far the ends of jobs have been told as traces, and what there is to tell of each.

Traces follow the count of events (`pipeline.store.event_counts`): up to its mark every event is committed and none will
come any more, so that nothing is passed by, however late a transaction commits. The mark of the traces moves after they
were taken: who is killed between the two leaves them to be sent again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, select, update

from pipeline.job_story import Place
from pipeline.store import marks
from pipeline.store.database import Transaction
from pipeline.store.event_counts import COUNTED, TRACED
from pipeline.store.places import places_of
from pipeline.store.tables import (
    attempts,
    campaigns,
    controls,
    job_events,
    jobs,
    steps,
    vos,
)
from pipeline.traces.ids import is_traced, trace_id
from pipeline.traces.life import Attributes, Event, Story
from schemas.states import JOB_FINAL, JobState

FAILED = "traces_failed"
MOST = 20_000
"""Ids of events that are looked through at a time."""
_FIRST_WAIT, _LONGEST_WAIT = 10.0, 300.0
"""Seconds until a place that did not take traces is tried again: doubled each time."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Events that ended jobs which are traced, as (event, job), in a range of events that goes on from `begin`."""

    begin: int
    last: int
    found: Sequence[tuple[int, int]]
    given_up: int
    """How many more there were, too long ago."""


def next_ends(tx: Transaction, *, share: float, oldest: float, most: int = MOST) -> Ends | None:
    """The next ends to tell; None when there is nothing new.

    The first call ever, and the first after nobody has asked for `oldest` seconds, begin with what happens from now.
    """
    counted = marks.read(tx, COUNTED)
    if counted is None:
        return None
    mark = marks.lock(tx, TRACED, begin=counted.value)
    begin = mark.value if mark.at > tx.after(-oldest) else counted.value
    marks.move(tx, TRACED, begin, tx.now)
    if begin >= counted.value:
        return None
    last = min(counted.value, begin + most)
    query = (
        select(job_events.c.id, job_events.c.job_id, job_events.c.at, jobs.c.created_at)
        .join(jobs, jobs.c.id == job_events.c.job_id)
        .where(job_events.c.id > begin, job_events.c.id <= last, job_events.c.to_state.in_(JOB_FINAL))
        .order_by(job_events.c.id)
    )
    rows = [row for row in tx.rows(query) if is_traced(trace_id(row.job_id, row.created_at), share)]
    found = [(row.id, row.job_id) for row in rows if row.at > tx.after(-oldest)]
    return Ends(begin, last, found, len(rows) - len(found))


def advance(tx: Transaction, begin: int, to: int) -> bool:
    """Note that all up to `to` is told; no where somebody else has told it, or retention moved the mark."""
    mine = (controls.c.name == TRACED, controls.c.value == begin)
    return bool(tx.run(update(controls).where(*mine).values(value=to, at=tx.now)))


def may_try(tx: Transaction) -> bool:
    """Whether the place that traces are sent to is to be tried now."""
    failed = marks.read(tx, FAILED)
    return failed is None or not failed.value or tx.now >= failed.at + _wait(failed.value)


def has_failed(tx: Transaction) -> bool:
    """Whether it did not take them the last time."""
    failed = marks.read(tx, FAILED)
    return failed is not None and failed.value > 0


def note_failure(tx: Transaction) -> float:
    """It did not take them; how many seconds to wait."""
    failures = marks.lock(tx, FAILED).value + 1
    marks.move(tx, FAILED, failures, tx.now)
    return _wait(failures).total_seconds()


def note_success(tx: Transaction) -> None:
    """It took them."""
    tx.run(update(controls).where(controls.c.name == FAILED, controls.c.value > 0).values(value=0, at=tx.now))


def stories(tx: Transaction, ends: Sequence[tuple[int, int]]) -> list[Story]:
    """What there is to tell of each (event, job), in their order; nothing of a job that retention has deleted."""
    job_ids = sorted({job_id for _, job_id in ends})
    about = {row.id: row for row in tx.rows(_about().where(jobs.c.id.in_(job_ids)))}
    events = _events(tx, job_ids)
    pilot_ids = {event.pilot_id for of_job in events.values() for event in of_job if event.pilot_id is not None}
    places = _places(tx, pilot_ids)
    reported = _reported(tx, job_ids)
    told = []
    for last, job_id in ends:
        if job_id not in about:
            continue
        row, reports = about[job_id], reported[job_id]
        told.append(
            Story(
                trace_id=trace_id(job_id, row.created_at),
                attributes=_attributes(row),
                events=[event for event in events[job_id] if event.id <= last],
                pilots=places,
                reports={report.attempt: _report(report) for report in reports},
                outcomes={report.attempt: report.outcome for report in reports},
                caller=row.trace,
            )
        )
    return told


def _wait(failures: int) -> timedelta:
    return timedelta(seconds=min(_FIRST_WAIT * 2.0 ** min(failures - 1, 10), _LONGEST_WAIT))


def _about() -> Any:
    return (
        select(
            jobs.c.id,
            jobs.c.campaign_id,
            jobs.c.array_index,
            jobs.c.created_at,
            campaigns.c.name.label("campaign"),
            campaigns.c.trace,
            steps.c.name.label("step"),
            vos.c.name.label("vo"),
        )
        .join(campaigns, campaigns.c.id == jobs.c.campaign_id)
        .join(steps, steps.c.id == jobs.c.step_id)
        .join(vos, vos.c.id == jobs.c.vo_id)
    )


def _attributes(row: Row[Any]) -> Attributes:
    return {
        "penstock.job.id": row.id,
        "penstock.job.index": row.array_index,
        "penstock.campaign.id": row.campaign_id,
        "penstock.campaign.name": row.campaign,
        "penstock.step.name": row.step,
        "penstock.vo": row.vo,
    }


def _events(tx: Transaction, job_ids: Sequence[int]) -> Mapping[int, list[Event]]:
    found: defaultdict[int, list[Event]] = defaultdict(list)
    query = select(job_events).where(job_events.c.job_id.in_(job_ids)).order_by(job_events.c.job_id, job_events.c.id)
    for row in tx.rows(query):
        before = None if row.from_state is None else JobState(row.from_state)
        after = JobState(row.to_state)
        event = Event(row.id, row.job_id, row.attempt, before, after, row.at, row.pilot_id, row.reason)
        found[row.job_id].append(event)
    return found


def _places(tx: Transaction, pilot_ids: AbstractSet[int]) -> Mapping[int, Attributes]:
    return {pilot_id: _place(pilot_id, place) for pilot_id, place in places_of(tx, pilot_ids).items()}


def _place(pilot_id: int, place: Place) -> Attributes:
    said: Mapping[str, str | int | None] = {
        "penstock.pilot.id": pilot_id,
        "penstock.site": place.site,
        "penstock.site_queue": place.site_queue,
        "host.name": place.node,
    }
    return {name: value for name, value in said.items() if value is not None}


def _reported(tx: Transaction, job_ids: Sequence[int]) -> Mapping[int, list[Row[Any]]]:
    found: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in tx.rows(select(attempts).where(attempts.c.job_id.in_(job_ids))):
        found[row.job_id].append(row)
    return found


def _report(row: Row[Any]) -> Attributes:
    said = {
        "process.exit.code": row.exit_code,
        "penstock.wall_seconds": row.wall_time,
        "penstock.cpu_seconds": row.cpu_time,
        "penstock.memory_mib": row.memory,
    }
    return {name: value for name, value in said.items() if value is not None}
