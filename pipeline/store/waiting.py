"""The waiting jobs as matching sees them: the heads of their autoclusters, and jobs taken from there under lock.

Waiting jobs and their rows are locked by skipping what others hold, so that a matcher never waits for anybody who
waits for it. Rows that were taken stay in the index, marked as deleted, for as long as anybody has an older view
open: whoever takes again and again says after which job, lest all of them be passed over each time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, String, cast, delete, select, text

from pipeline.store import jobs
from pipeline.store.autoclusters import requirement_of
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import JobRow
from pipeline.store.match_rows import Level
from pipeline.store.tables import autoclusters, requirements, waiting_jobs
from pipeline.store.tables import jobs as jobs_table
from schemas.requirements import Requirement
from schemas.states import JobState

_LAST = (1 << 63) - 1
_AT_ONCE = 250
"""Portions in one statement."""
_LISTED = text(
    "autoclusters.id NOT IN (SELECT id FROM JSON_TABLE(:but, '$[*]' COLUMNS (id BIGINT PATH '$')) AS listed)"
)
_LISTED_SQLITE = text("autoclusters.id NOT IN (SELECT value FROM json_each(:but))")
"""Thousands of ids travel as one value."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Up to `most` jobs of a level whose ids are above `after` and not above `until`."""

    level: Level
    most: int
    after: int = 0
    until: int = _LAST


def heads(
    tx: Transaction,
    requirements_known: MutableMapping[int, Requirement],
    autocluster_ids: Iterable[int] | None = None,
    known: Mapping[int, Level] | None = None,
    *,
    but: Collection[int] = (),
) -> list[Level]:
    """The highest level of each autocluster (of these, or of all `but` some) that has waiting jobs.

    By one look into the index for each: `GROUP BY` would ask less, if MariaDB chose the loose index scan; measured, it
    reads the whole index unless its statistics happen to be fresh. Requirements that are not known are read and added;
    `known` are levels by autocluster as they were read before, which are given again where nothing has changed.
    """
    known = known or {}
    rows = _head_rows(tx, autocluster_ids, but)
    _learn(tx, requirements_known, {row.requirement_id for row in rows})
    found: list[Level] = []
    fresh: list[Level] = []
    for row in rows:
        descent, head = map(int, row.head.split())
        before = known.get(row.id)
        if before is not None and (before.priority, before.head_job_id) == (-descent, head):
            found.append(before)
        else:
            fresh.append(_level(row, requirements_known[row.requirement_id], -descent, head))
    since = _waiting_since(tx, [level.head_job_id for level in fresh])
    return found + [replace(level, waiting_since=since.get(level.head_job_id)) for level in fresh]


def next_level(tx: Transaction, level: Level) -> Level | None:
    """The level of the same autocluster that comes after this one; None when there is none."""
    return next(iter(lower_levels(tx, [level])), None)


def lower_levels(tx: Transaction, levels: Iterable[Level]) -> list[Level]:
    """The `next_level` of each of these; those that have none are left out."""
    above = list(levels)
    rows: list[tuple[int, int, int]] = []
    if tx.connection.dialect.name == "sqlite":
        found = [tx.first(_below(level)) for level in above]
        rows = [(place, row.descent, row.job_id) for place, row in enumerate(found) if row is not None]
    else:
        for start in range(0, len(above), _AT_ONCE):
            statement = _all_below(above[start : start + _AT_ONCE], start)
            rows += [(row.place, row.descent, row.job_id) for row in tx.connection.exec_driver_sql(statement).all()]
    since = _waiting_since(tx, [job_id for _, _, job_id in rows])
    return [
        replace(above[place], priority=-descent, head_job_id=job_id, waiting_since=since.get(job_id))
        for place, descent, job_id in rows
    ]


def take(tx: Transaction, portions: Sequence[Portion]) -> list[list[JobRow]]:
    """The jobs of each portion, locked, the oldest first; fewer than there are where others hold some.

    Rows of jobs that do not wait, or are gone, are thrown away: they would stand at the head for good.
    """
    keys: list[list[int]] = [[] for _ in portions]
    if tx.connection.dialect.name == "sqlite":
        for place, portion in enumerate(portions):
            keys[place] = [row.job_id for row in tx.rows(_pop(portion))]
    else:
        for start in range(0, len(portions), _AT_ONCE):
            some = portions[start : start + _AT_ONCE]
            for place, job_id in tx.connection.exec_driver_sql(_pops(some, start)).all():
                keys[place].append(job_id)
    wanted = [job_id for ids in keys for job_id in ids]
    found = {job.id: job for job in jobs.lock_waiting(tx, wanted)}
    stale = [job_id for job_id, job in found.items() if job.state is not JobState.WAITING]
    if len(found) < len(wanted):
        stale += _gone(tx, [job_id for job_id in wanted if job_id not in found])
    if stale:
        _throw_away(tx, portions, keys, set(stale))
    return [
        [found[job_id] for job_id in ids if job_id in found and found[job_id].state is JobState.WAITING] for ids in keys
    ]


def _head_rows(tx: Transaction, autocluster_ids: Iterable[int] | None, but: Collection[int]) -> list[Row[Any]]:
    """Autoclusters with (descent, job) of their first waiting job in one word, so that the index is looked at once."""
    first = (
        select(cast(waiting_jobs.c.descent, String(12)) + " " + cast(waiting_jobs.c.job_id, String(20)))
        .where(waiting_jobs.c.autocluster_id == autoclusters.c.id)
        .order_by(waiting_jobs.c.descent, waiting_jobs.c.job_id)
        .limit(1)
        .scalar_subquery()
    )
    columns = [autoclusters.c[name] for name in ("id", "vo_id", "group_id", "owner_id", "job_type", "requirement_id")]
    query = select(*columns, first.label("head"))
    if tx.connection.dialect.name != "sqlite":  # autoclusters outlive their jobs: those that are empty stay there
        query = query.having(text("head IS NOT NULL"))
    if autocluster_ids is None and but:
        listed = _LISTED_SQLITE if tx.connection.dialect.name == "sqlite" else _LISTED
        others = query.where(listed.bindparams(but=json.dumps(list(but))))
        return [row for row in tx.rows(others) if row.head is not None]
    if autocluster_ids is None:
        return [row for row in tx.rows(query) if row.head is not None]
    wanted = sorted(set(autocluster_ids))
    found = [row for part in in_chunks(wanted) for row in tx.rows(query.where(autoclusters.c.id.in_(part)))]
    return [row for row in found if row.head is not None]


def _learn(tx: Transaction, known: MutableMapping[int, Requirement], ids: set[int]) -> None:
    for part in in_chunks(sorted(ids - known.keys())):
        query = select(requirements.c.id, requirements.c.body).where(requirements.c.id.in_(part))
        known.update((row.id, requirement_of(row.body)) for row in tx.rows(query))


def _level(row: Row[Any], requirement: Requirement, priority: int, head: int) -> Level:
    return Level(
        autocluster_id=row.id,
        vo_id=row.vo_id,
        group_id=row.group_id,
        owner_id=row.owner_id,
        job_type=row.job_type,
        requirement_id=row.requirement_id,
        requirement=requirement,
        priority=priority,
        head_job_id=head,
    )


def _waiting_since(tx: Transaction, job_ids: Sequence[int]) -> dict[int, datetime]:
    """A waiting job's row changed last when it began to wait."""
    found: dict[int, datetime] = {}
    for part in in_chunks(sorted(job_ids)):
        query = select(jobs_table.c.id, jobs_table.c.changed_at).where(jobs_table.c.id.in_(part))
        found |= {row.id: row.changed_at for row in tx.rows(query)}
    return found


def _below(level: Level) -> Select[Any]:
    return (
        select(waiting_jobs.c.descent, waiting_jobs.c.job_id)
        .where(waiting_jobs.c.autocluster_id == level.autocluster_id, waiting_jobs.c.descent > -level.priority)
        .order_by(waiting_jobs.c.descent, waiting_jobs.c.job_id)
    )


def _all_below(levels: Sequence[Level], first: int) -> str:
    """As `_below`, for all of them in one statement. Nothing but numbers is put in."""
    parts = (
        " ".join(
            (
                "(SELECT",
                str(first + place),
                "AS place, descent, job_id FROM waiting_jobs WHERE autocluster_id =",
                str(level.autocluster_id),
                "AND descent >",
                str(-level.priority),
                "ORDER BY descent, job_id LIMIT 1)",
            )
        )
        for place, level in enumerate(levels)
    )
    return " UNION ALL ".join(parts)


def _pop(portion: Portion) -> Select[Any]:
    return (
        select(waiting_jobs.c.job_id)
        .where(
            waiting_jobs.c.autocluster_id == portion.level.autocluster_id,
            waiting_jobs.c.descent == -portion.level.priority,
            waiting_jobs.c.job_id > portion.after,
            waiting_jobs.c.job_id <= portion.until,
        )
        .order_by(waiting_jobs.c.job_id)
        .limit(portion.most)
    )


def _pops(portions: Sequence[Portion], first: int) -> str:
    """All of them in one statement: measured, a third of the time of one statement each. Nothing but numbers is put in
    (and a word that says whose portion a row is of)."""
    parts = (
        " ".join(
            (
                "(SELECT",
                str(first + place),
                "AS place, job_id FROM waiting_jobs WHERE autocluster_id =",
                str(portion.level.autocluster_id),
                "AND descent =",
                str(-portion.level.priority),
                "AND job_id >",
                str(portion.after),
                "AND job_id <=",
                str(portion.until),
                "ORDER BY job_id LIMIT",
                str(portion.most),
                "FOR UPDATE SKIP LOCKED)",
            )
        )
        for place, portion in enumerate(portions)
    )
    return " UNION ALL ".join(parts)


def _gone(tx: Transaction, ids: Sequence[int]) -> list[int]:
    """Those of the jobs that exist no more; others are only held by somebody."""
    there: set[int] = set()
    for part in in_chunks(ids):
        there |= {row.id for row in tx.rows(select(jobs_table.c.id).where(jobs_table.c.id.in_(part)))}
    return [job_id for job_id in ids if job_id not in there]


def _throw_away(tx: Transaction, portions: Sequence[Portion], keys: Sequence[Sequence[int]], stale: set[int]) -> None:
    for portion, ids in zip(portions, keys, strict=True):
        mine = sorted(stale.intersection(ids))
        if mine:
            of_level = (
                waiting_jobs.c.autocluster_id == portion.level.autocluster_id,
                waiting_jobs.c.descent == -portion.level.priority,
            )
            tx.run(delete(waiting_jobs).where(*of_level, waiting_jobs.c.job_id.in_(mine)))
