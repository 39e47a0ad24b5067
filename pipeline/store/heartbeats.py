"""Heartbeats: what a pilot holds is compared with the rows; what differs becomes a command or a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update

from pipeline.store import jobs
from pipeline.store.database import Transaction
from pipeline.store.jobs import Change, JobRow
from pipeline.store.losses import Aftermath, Rules, lose
from pipeline.store.pilots import PilotRow, seen
from pipeline.store.tables import controls, peeks
from pipeline.store.tables import jobs as jobs_table
from schemas.pilots import HeartbeatReply, HeartbeatRequest, HeldJob, Stop
from schemas.states import JOB_OCCUPYING, JobState

SERVING = "api_serving"
SERVING_GAP = 3.0
"""Heartbeat intervals without a sign of the API after which its service counts from new."""
ABSENCES = 2
"""Heartbeats in a row that may not leave an attempt out."""
_PEEKED = ("attempt", "wall_time", "cpu_time", "memory", "tail", "at")
_RUNS = frozenset({JobState.RUNNING, JobState.STALLED})
_TAKEN_UP = frozenset({JobState.COMPLETING, JobState.DONE})


def heartbeat(
    tx: Transaction, pilot: PilotRow, request: HeartbeatRequest, rules: Rules
) -> tuple[HeartbeatReply, Aftermath]:
    """A locked pilot is alive and holds these attempts."""
    seen(tx, pilot)
    held = {(job.job_id, job.attempt): job for job in request.jobs}
    mine = jobs.of_pilot(tx, pilot.id)
    listed = [job for job in mine if (job.id, job.attempt) in held]
    aftermath = _absent(tx, [job for job in mine if (job.id, job.attempt) not in held], rules)
    _present(tx, listed)
    _peek(tx, listed, held)
    reply = HeartbeatReply(
        stop=tuple(_commands(tx, pilot, listed, held)),
        drain=pilot.drains(rules),
        heartbeat_interval=rules.heartbeat_interval,
    )
    return reply, aftermath


def mark_serving(tx: Transaction, gap: float) -> None:
    """The API serves heartbeats now; after a silence of more than `gap` seconds it does so from now on."""
    tx.add_missing(controls, [{"name": SERVING, "value": 1, "since": tx.now, "at": tx.now}])
    mine = controls.c.name == SERVING
    tx.run(update(controls).where(mine, controls.c.at < tx.after(-gap)).values(since=tx.now))
    tx.run(update(controls).where(mine).values(at=tx.now))


def serving_since(tx: Transaction, gap: float) -> datetime | None:
    """Since when the API has served heartbeats without a break; None when it does not now. Silence counts from then."""
    row = tx.first(select(controls.c.since, controls.c.at).where(controls.c.name == SERVING))
    if row is None or row.at < tx.now - timedelta(seconds=gap):
        return None
    since: datetime = row.since
    return since


def _present(tx: Transaction, listed: Sequence[JobRow]) -> None:
    jobs.set_absences(tx, [job.id for job in listed if job.absences], 0)
    stalled = [job for job in listed if job.state is JobState.STALLED]
    jobs.apply(tx, [Change(job, JobState.RUNNING, "its pilot is back") for job in stalled])


def _absent(tx: Transaction, absent: Iterable[JobRow], rules: Rules) -> Aftermath:
    """Attempts that the pilot left out; one that it has not confirmed yet may still be on its way."""
    running = [job for job in absent if job.state in _RUNS]
    lost = [job for job in running if job.absences + 1 >= ABSENCES]
    jobs.set_absences(tx, [job.id for job in running if job.absences + 1 < ABSENCES], 1)
    return lose(tx, lost, "absent from two heartbeats of its pilot", rules)


def _commands(
    tx: Transaction, pilot: PilotRow, listed: Iterable[JobRow], held: Mapping[tuple[int, int], HeldJob]
) -> list[Stop]:
    mine = {(job.id, job.attempt): job for job in listed}
    others = sorted(set(held) - set(mine))
    ended = _ended(tx, pilot, others)
    kills = [Stop(job_id=job.id, attempt=job.attempt, why="kill") for job in mine.values() if job.kill_requested]
    gone = [Stop(job_id=key[0], attempt=key[1], why="superseded") for key in others if key not in ended]
    return kills + gone


def _ended(tx: Transaction, pilot: PilotRow, keys: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Attempts whose good end this pilot has reported; it has not seen the answer yet and will report again."""
    if not keys:
        return set()
    query = select(jobs_table.c.id, jobs_table.c.attempt).where(
        jobs_table.c.id.in_([job_id for job_id, _ in keys]),
        jobs_table.c.pilot_id == pilot.id,
        jobs_table.c.state.in_(_TAKEN_UP),
    )
    return {(row.id, row.attempt) for row in tx.rows(query)}


def _peek(tx: Transaction, listed: Iterable[JobRow], held: Mapping[tuple[int, int], HeldJob]) -> None:
    rows = []
    for job in listed:
        if job.state in JOB_OCCUPYING - {JobState.MATCHED}:
            word = held[job.id, job.attempt]
            rows.append(
                {
                    "job_id": job.id,
                    "attempt": job.attempt,
                    "wall_time": word.wall_time,
                    "cpu_time": word.cpu_time,
                    "memory": word.memory,
                    "tail": word.tail,
                    "at": tx.now,
                }
            )
    tx.put(peeks, rows, _PEEKED)
