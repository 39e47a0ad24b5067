"""The matching executor: one transaction per batch, whether slots or jobs woke it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from executors.matching.decide import Match, Slot, match, suits, trimmed, wanted_by
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import jobs, matching
from pipeline.store.database import Transaction
from pipeline.store.jobs import Change, JobRow
from pipeline.store.matching import Alive, Level, Place, Room, Totals
from pipeline.store.steps import ended_steps
from schemas.messages import Body, JobsWaiting, Message, SlotsOffered, StepsDue, about_ids
from schemas.outcomes import Done, Outcome
from schemas.states import JobState

MOST_MATCHES = 2_000
"""Jobs that one transaction matches at the most: it must not live for seconds."""
MOST_PARKED = 1_000
"""Parked slots that one transaction looks at."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the messages name."""

    pilot_ids: tuple[int, ...]
    autocluster_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Result:
    """What is to be told after the commit, and what a look at what waits now is compared with."""

    messages: tuple[Message, ...] = ()
    idle: tuple[Slot, ...] = ()
    """Slots that were parked."""
    settled: frozenset[int] = frozenset()
    """Autoclusters of which no idle slot can take more than was taken."""


@dataclass(frozen=True, slots=True)
class _Backlog:
    """The waiting jobs as this transaction locks them."""

    tx: Transaction

    def take(self, level: Level, most: int) -> Sequence[JobRow]:
        return matching.take(self.tx, level, most)

    def after(self, level: Level) -> Level | None:
        return matching.next_level(self.tx, level)


def execute(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """One outcome per message; the follow-ups of the whole batch go with its last one."""
    batch = _Batch(_ids(messages, SlotsOffered), _ids(messages, JobsWaiting))
    result = context.database.transact(partial(_match, batch=batch, settings=context.settings))
    follow_ups = (*result.messages, *_missed(context, result))
    return [*(Done() for _ in messages[1:]), Done(follow_ups)]


def _ids(messages: Iterable[Message], body: type[Body]) -> tuple[int, ...]:
    return tuple(sorted({i for message in messages if isinstance(message.body, body) for i in message.body.ids()}))


def _match(tx: Transaction, batch: _Batch, settings: Settings) -> _Result:
    alive = Alive(settings.heartbeat_timeout, settings.pilot_max_failures)
    offered_at = matching.places_of(tx, batch.pilot_ids, alive)
    heads = matching.heads(
        tx, {place.vo_id for place in offered_at.values()} | matching.vos_of(tx, batch.autocluster_ids)
    )
    parked_at = _parked(tx, [level for level in heads if level.autocluster_id in set(batch.autocluster_ids)], alive)
    offered = matching.lock_slots(tx, batch.pilot_ids, "offered")
    parked = matching.lock_slots(tx, parked_at, "parked", skip_locked=True)
    slots = _free(tx, {**offered, **parked}, {**offered_at, **parked_at})
    rooms = matching.site_rooms(tx, {slot.place.site_id for slot in slots})
    outcome = match(slots, heads, rooms, _Backlog(tx), MOST_MATCHES)
    kept, ended = _carry_out(tx, outcome.matches, settings)
    served = {found.place.pilot_id for found in kept}
    left_over = set() if not outcome.is_cut_short else offered.keys() - served
    matching.set_slots(tx, served, "served")
    matching.set_slots(tx, offered.keys() - served - left_over, "parked")
    again = batch.autocluster_ids if kept and (outcome.is_cut_short or len(parked_at) == MOST_PARKED) else ()
    return _Result(
        messages=(
            *about_ids(SlotsOffered, sorted(left_over), now=tx.now),
            *about_ids(JobsWaiting, again, now=tx.now),
            *about_ids(StepsDue, ended, now=tx.now),
        ),
        idle=tuple(slot for slot in slots if slot.place.pilot_id not in served | left_over),
        settled=frozenset(level.autocluster_id for level in heads) - outcome.drained,
    )


def _parked(tx: Transaction, news: Sequence[Level], alive: Alive) -> Mapping[int, Place]:
    """Where those parked slots are that jobs which woke us could go to."""
    if not news:
        return {}
    found = matching.parked_places(tx, {level.vo_id for level in news}, alive)
    suitable = (place for _, place in sorted(found.items()) if any(suits(place, level) for level in news))
    return {place.pilot_id: place for place in islice(suitable, MOST_PARKED)}


def _free(tx: Transaction, locked: Mapping[int, Totals], places: Mapping[int, Place]) -> list[Slot]:
    usable = sorted(locked.keys() & places.keys())
    taken = matching.occupied(tx, usable)
    nothing = Room(0, 0, 0)
    return [
        Slot(
            place=places[pilot_id],
            free=_difference(locked[pilot_id].total, taken.get(pilot_id, nothing)),
            time_left=(locked[pilot_id].ends_at - tx.now).total_seconds(),
        )
        for pilot_id in usable
    ]


def _difference(total: Room, taken: Room) -> Room:
    return Room(total.cores - taken.cores, total.memory - taken.memory, total.disk - taken.disk)


def _carry_out(tx: Transaction, matches: Sequence[Match], settings: Settings) -> tuple[list[Match], list[int]]:
    """Assign what the limits, now locked, still leave room for; the matches kept, and steps that may have ended."""
    doomed = [found.job for found in matches if found.job.kill_requested]
    living = [found for found in matches if not found.job.kill_requested]
    rooms = matching.site_rooms(tx, {found.place.site_id for found in living}, lock=True)
    kept = trimmed(living, rooms)
    wake_at = tx.after(settings.confirm_timeout)
    assigned = [
        Change(
            found.job,
            JobState.MATCHED,
            wake_at=wake_at,
            values=(("pilot_id", found.place.pilot_id), ("site_id", found.place.site_id)),
        )
        for found in kept
    ]
    jobs.apply(tx, [*assigned, *(Change(job, JobState.KILLED, "killed on request") for job in doomed)])
    return kept, ended_steps(tx, {job.step_id for job in doomed}) if doomed else []


def _missed(context: Context, result: _Result) -> list[Message]:
    """News for slots that were parked while jobs became waiting unseen. Those jobs' own news may have come too early
    to find the slots parked, so whoever commits last must look."""
    if not result.idle:
        return []

    def look(tx: Transaction) -> list[Message]:
        heads = matching.heads(tx, {slot.place.vo_id for slot in result.idle})
        missed = {
            level.autocluster_id
            for level in heads
            if level.autocluster_id not in result.settled and wanted_by(result.idle, level)
        }
        return about_ids(JobsWaiting, sorted(missed), now=tx.now)

    return context.database.read(look)
