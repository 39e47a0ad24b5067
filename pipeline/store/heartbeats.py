"""Heartbeats: what a pilot holds is compared with the rows; what differs becomes a command or a loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta

from sqlalchemy import select, update

from pipeline.store import jobs
from pipeline.store.database import Transaction, in_chunks
from pipeline.store.jobs import Change, JobRow
from pipeline.store.losses import Aftermath, Rules, lose
from pipeline.store.own_attempts import OfPilot, of_pilots, owned
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
    """`heartbeat_all` for one pilot."""
    (reply,), aftermath = heartbeat_all(tx, [(pilot, request)], rules)
    return reply, aftermath


def heartbeat_all(
    tx: Transaction, said: Sequence[tuple[PilotRow, HeartbeatRequest]], rules: Rules
) -> tuple[list[HeartbeatReply], Aftermath]:
    """These locked pilots, each named once, are alive and hold these attempts; the replies are in their order."""
    seen(tx, [pilot for pilot, _ in said])
    held = {(pilot.id, job.job_id, job.attempt): job for pilot, request in said for job in request.jobs}
    mine = of_pilots(tx, [pilot.id for pilot, _ in said])
    listed = {owned(job): job for job in mine if owned(job) in held}
    aftermath = _absent(tx, [job for job in mine if owned(job) not in held], rules)
    _present(tx, list(listed.values()))
    _peek(tx, listed, held)
    others = sorted(held.keys() - listed.keys())
    stops = _stops(listed, others, _ended(tx, others))
    replies = [
        HeartbeatReply(
            stop=tuple(stops[pilot.id]), drain=pilot.drains(rules), heartbeat_interval=rules.heartbeat_interval
        )
        for pilot, _ in said
    ]
    return replies, aftermath


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


def _stops(
    listed: Mapping[OfPilot, JobRow], others: Iterable[OfPilot], ended: AbstractSet[OfPilot]
) -> Mapping[int, list[Stop]]:
    """The commands by pilot: attempts that are to be killed, and those that are not its own any more."""
    stops: defaultdict[int, list[Stop]] = defaultdict(list)
    for (pilot_id, job_id, attempt), job in listed.items():
        if job.kill_requested:
            stops[pilot_id].append(Stop(job_id=job_id, attempt=attempt, why="kill"))
    for pilot_id, job_id, attempt in others:
        if (pilot_id, job_id, attempt) not in ended:
            stops[pilot_id].append(Stop(job_id=job_id, attempt=attempt, why="superseded"))
    return stops


def _ended(tx: Transaction, keys: Sequence[OfPilot]) -> set[OfPilot]:
    """Attempts whose good end their pilot has reported; it has not seen the answer yet and will report again."""
    query = select(jobs_table.c.pilot_id, jobs_table.c.id, jobs_table.c.attempt)
    wanted = (jobs_table.c.pilot_id.in_({key[0] for key in keys}), jobs_table.c.state.in_(_TAKEN_UP))
    return {
        (row.pilot_id, row.id, row.attempt)
        for chunk in in_chunks(sorted({key[1] for key in keys}))
        for row in tx.rows(query.where(jobs_table.c.id.in_(chunk), *wanted))
    }


def _peek(tx: Transaction, listed: Mapping[OfPilot, JobRow], held: Mapping[OfPilot, HeldJob]) -> None:
    rows = []
    for key, job in listed.items():
        if job.state in JOB_OCCUPYING - {JobState.MATCHED}:
            word = held[key]
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
