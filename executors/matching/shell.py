"""The matching executor: short transactions over the slots of a batch, whether slots or jobs woke it."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from executors.matching.allowance import Allowance
from executors.matching.ground import Ground, charges
from executors.matching.keeping import Keeping
from executors.matching.memory import Key, Memory, memory_of
from executors.matching.parked import Search
from executors.matching.rounds import Match, Rules, Slot, match, trimmed, wanted_by
from executors.matching.stock import Stock
from pipeline.runtime.spec import Context
from pipeline.settings import Settings
from pipeline.store import jobs, limits, matching, releases, reservations, usage
from pipeline.store.assignments import Assignment, assign
from pipeline.store.database import Transaction
from pipeline.store.jobs import Change
from pipeline.store.match_rows import Level, Place
from pipeline.store.matching import Alive, Totals
from pipeline.store.steps import ended_steps
from pipeline.store.usage import Booking
from schemas.messages import Body, JobsWaiting, Message, SlotsOffered, StepsDue, about_ids
from schemas.outcomes import Done, Outcome, Retry
from schemas.rooms import Room
from schemas.states import JobState

MOST_MATCHES = 1_000
"""Jobs that one transaction matches at the most: it must not live for seconds."""
MOST_OFFERS = 250
"""Slots that one transaction locks at the most."""
MOST_NEWS = 1_000
"""Autoclusters for which one transaction looks at parked slots."""
FIRST_PARKED = 16
"""Parked slots that are looked at before more of them are read."""
MOST_PARKED = 1_000
"""Parked slots that are read at once, and about as many as one transaction locks."""
MOST_PLANS = 8
"""Times that a transaction plans anew because jobs that it planned with were not to be had."""
HELD = 0.5
"""Seconds after which news of jobs are looked at again that somebody else had locked."""
LONG_HELD = 15.0
"""Seconds after which that is left to reconcile."""
PATIENCE = 20.0
"""Seconds after which what is left of a batch goes back into the queue."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one transaction looks at."""

    pilot_ids: tuple[int, ...] = ()
    autocluster_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Parked:
    """Parked slots for the jobs that woke us."""

    slots: Mapping[int, Totals] = field(default_factory=dict)
    wanted: Mapping[int, int] = field(default_factory=dict)
    """Jobs that waited, by autocluster."""
    is_cut_short: bool = False
    """Whether there are parked slots that nobody looked at, since these should do."""

    def is_too_few(self, kept: Iterable[Match]) -> bool:
        """Whether others took the slots that should have done."""
        served = sum(1 for found in kept if found.level.autocluster_id in self.wanted)
        return self.is_cut_short and served < min(sum(self.wanted.values()), MOST_MATCHES)


@dataclass(frozen=True, slots=True)
class _Result:
    """What follows from a committed transaction."""

    left_over: tuple[int, ...] = ()
    """Pilots whose slots are still on offer."""
    again: tuple[int, ...] = ()
    """Autoclusters that may be worth another look at parked slots."""
    ended_steps: tuple[int, ...] = ()
    idle: tuple[Slot, ...] = ()
    """Slots that were parked."""
    settled: frozenset[int] = frozenset()
    """Autoclusters of which no idle slot can take more than was taken."""
    hints: Mapping[Key, int] = field(default_factory=dict)
    spared: tuple[Level, ...] = ()
    """Levels whose jobs were to be matched, and were left where they are."""


def execute(context: Context, messages: Sequence[Message]) -> list[Outcome]:
    """One outcome per message; the follow-ups of the whole batch go with one of them."""
    memory = memory_of(context.database)
    began = context.database.clock()
    pilot_ids = list(_ids(messages, SlotsOffered))
    news = _ids(messages, JobsWaiting)
    until = time.monotonic() + PATIENCE
    results: list[_Result] = []
    while (pilot_ids or news) and time.monotonic() < until:
        batch = _Batch(tuple(pilot_ids[:MOST_OFFERS]), news[:MOST_NEWS])
        result = _match(context, memory, batch)
        results.append(result)
        pilot_ids = pilot_ids[MOST_OFFERS:] + list(result.left_over)
        news = news[MOST_NEWS:] + result.again
    now = context.database.clock()
    undecided = set(pilot_ids)
    put_off: list[Message] = []
    for message in messages:
        left = undecided.intersection(message.body.ids()) if isinstance(message.body, SlotsOffered) else ()
        if left:
            put_off += about_ids(SlotsOffered, sorted(left), now=message.created_at)
        else:
            seconds = max((now - message.created_at).total_seconds(), 0.0)
            context.tally.note("match_latency", message.type, value=seconds)
    missed = _missed(context, memory, results)
    # What this batch was told of and waited already, but was not to be had, is held by somebody, maybe for long.
    told = {i for i in _ids(messages, JobsWaiting) if i in missed}
    held = {i for i in told if (since := missed[i]) is not None and since < began}
    follow_ups = (
        *put_off,
        *about_ids(JobsWaiting, news, now=now),
        *about_ids(StepsDue, sorted({step_id for result in results for step_id in result.ended_steps}), now=now),
        *about_ids(JobsWaiting, sorted(missed.keys() - held), now=now),
    )
    return _outcomes(messages, follow_ups, held, now)


def _outcomes(
    messages: Sequence[Message], follow_ups: tuple[Message, ...], held: Container[int], now: datetime
) -> list[Outcome]:
    """News of jobs that somebody else holds come back a little later: at once, they would go round and round."""
    later = [isinstance(one.body, JobsWaiting) and any(i in held for i in one.body.ids()) for one in messages]
    is_young = [(now - one.created_at).total_seconds() < LONG_HELD for one in messages]
    again = Retry("the jobs are held by another transaction", after=HELD, outside=True)
    outcomes: list[Outcome] = [
        again if is_later and young else Done() for is_later, young in zip(later, is_young, strict=True)
    ]
    bearer = next((place for place, outcome in enumerate(outcomes) if isinstance(outcome, Done)), None)
    if bearer is not None:
        outcomes[bearer] = Done(follow_ups)
    elif follow_ups:
        outcomes[0] = Done((*follow_ups, *about_ids(JobsWaiting, messages[0].body.ids(), now=now)))
    return outcomes


def _ids(messages: Iterable[Message], body: type[Body]) -> tuple[int, ...]:
    return tuple(sorted({i for message in messages if isinstance(message.body, body) for i in message.body.ids()}))


def _match(context: Context, memory: Memory, batch: _Batch) -> _Result:
    """Book what has ended, which makes room, then match; what is remembered follows what is committed."""
    settings = context.settings
    booked = context.database.transact(
        lambda tx: releases.book(tx, settings.share_half_life, after=memory.released_up_to)
    )
    memory.released_up_to = max(memory.released_up_to, booked.last_id)
    result = context.database.transact(partial(_transaction, memory=memory, batch=batch, settings=settings))
    memory.learn(result.hints, result.spared)
    return result


def _transaction(tx: Transaction, memory: Memory, batch: _Batch, settings: Settings) -> _Result:
    began = time.monotonic()
    memory.refresh(tx, batch.autocluster_ids)
    alive = Alive(settings.heartbeat_timeout, settings.pilot_max_failures)
    offered = matching.lock_slots(tx, batch.pilot_ids, "offered")
    parked = _parked(tx, memory, batch.autocluster_ids, alive)
    locked = {**offered, **parked.slots}
    memory.know(tx, {totals.reserved_for for totals in locked.values() if totals.reserved_for is not None})
    slots = _slots(tx, locked, matching.places(tx, locked, memory.kinds, alive))
    ground = Ground.read(tx, [slot.place for slot in slots], memory.nodes, settings)
    plan = _Plan(tx, memory, ground, Stock(tx, memory), _rules(settings))
    plan.fill(slots)
    if plan.idle(slots) and memory.read_at < began:
        memory.read_others(tx)
        plan.fill(plan.idle(slots))
    kept = _carry_out(tx, plan, settings)
    served, taken = {found.place.pilot_id for found in kept}, {found.job.id for found in kept}
    spared = [found for found in plan.matches if found.place.pilot_id not in served]
    left_over = {found.place.pilot_id for found in spared} | (set(offered) if plan.is_cut_short else set())
    left_over = (left_over & offered.keys()) - served
    matching.set_slots(tx, served, "served")
    matching.set_slots(tx, offered.keys() - served - left_over, "parked")
    reservations.reserve(tx, plan.keeping.changes(lost=[found for found in plan.matches if found.job.id not in taken]))
    memory.nodes = plan.keeping.nodes
    doomed = plan.stock.doomed
    idle = tuple(slot for slot in slots if slot.place.pilot_id not in served | left_over)
    on_board = {level.autocluster_id for level in memory.board.levels()} if idle else set()
    return _Result(
        left_over=tuple(sorted(left_over)),
        again=batch.autocluster_ids if kept and (plan.is_cut_short or parked.is_too_few(kept)) else (),
        ended_steps=tuple(ended_steps(tx, {job.step_id for job in doomed}) if doomed else ()),
        idle=idle,
        settled=frozenset(on_board - plan.drained),
        hints=plan.stock.hints(),
        spared=_levels_spared(plan.matches, kept),
    )


def _rules(settings: Settings) -> Rules:
    return Rules(settings.wide_patience, settings.wide_reserve, settings.longest_wait, MOST_MATCHES)


def _parked(tx: Transaction, memory: Memory, autocluster_ids: Sequence[int], alive: Alive) -> _Parked:
    """Those parked slots that jobs which woke us can go to, locked: as many as it takes, so that news of one job cost
    little however many slots are parked."""
    vo_ids = {level.vo_id for autocluster_id in autocluster_ids for level in memory.board.of(autocluster_id)}
    if not vo_ids:
        return _Parked()
    wanted = matching.count_waiting(tx, autocluster_ids, MOST_MATCHES)
    allowance = Allowance(limits.of(tx, vo_ids, None), limits.rates(tx, None), tx.now)
    search = Search(memory.board, allowance, wanted)
    locked: dict[int, Totals] = {}
    after, size = 0, FIRST_PARKED
    while not search.is_over() and len(locked) < MOST_PARKED:
        found = matching.parked_slots(tx, vo_ids, after=after, most=size)
        if not found:
            return _Parked(locked, wanted)
        places = matching.places(tx, found, memory.kinds, alive)
        suitable = {pilot_id: place for pilot_id, place in places.items() if search.suits(place)}
        locked |= _lock_some(tx, search, _slots(tx, found, suitable))
        after, size = max(found), min(4 * size, MOST_PARKED)
    return _Parked(locked, wanted, is_cut_short=True)


def _lock_some(tx: Transaction, search: Search, slots: Sequence[Slot]) -> dict[int, Totals]:
    """Those that are searched for, locked; where others hold one, another will do."""
    locked: dict[int, Totals] = {}
    left = slots
    while left and not search.is_over():
        takers = {slot.place.pilot_id: taker for slot in left if (taker := search.taker(slot)) is not None}
        if not takers:
            break
        mine = matching.lock_slots(tx, takers, "parked", skip_locked=True)
        search.give_back(taker for pilot_id, taker in takers.items() if pilot_id not in mine)
        locked |= mine
        left = [slot for slot in left if slot.place.pilot_id not in takers]
    return locked


def _slots(tx: Transaction, locked: Mapping[int, Totals], places: Mapping[int, Place]) -> list[Slot]:
    taken = matching.occupied(tx, places)
    nothing = Room(0, 0, 0)
    return [
        Slot(
            place=place,
            free=_difference(locked[pilot_id].total, taken.get(pilot_id, nothing)),
            time_left=(locked[pilot_id].ends_at - tx.now).total_seconds(),
        )
        for pilot_id, place in places.items()
    ]


def _difference(total: Room, taken: Room) -> Room:
    return Room(
        total.cores - taken.cores, total.memory - taken.memory, total.disk - taken.disk, total.gpus - taken.gpus
    )


class _Plan:
    """What a transaction is to match, planned in as many steps as it takes to have the jobs."""

    def __init__(self, tx: Transaction, memory: Memory, ground: Ground, stock: Stock, rules: Rules) -> None:
        self._tx, self._memory, self._rules = tx, memory, rules
        self.ground, self.stock = ground, stock
        self.matches: list[Match] = []
        self.keeping = Keeping(tx, ground.nodes, rules)
        self.drained: frozenset[int] = frozenset()
        """Autoclusters of which less could be had than was wanted."""
        self.is_cut_short = False

    def fill(self, slots: Sequence[Slot]) -> None:
        """Plan for these slots until nothing is lacking."""
        for _ in range(MOST_PLANS):
            left = [slot for slot in self._left_of(slots) if slot.free.cores > 0]
            most = self._rules.most - len(self.matches)
            if not left or most <= 0:
                self.is_cut_short = self.is_cut_short or bool(left)
                return
            self.stock.begin()
            ground = replace(self.ground, nodes=self.keeping.nodes)
            terms = ground.terms(self.matches, replace(self._rules, most=most))
            outcome = match(left, self._memory.board, terms, self.stock)
            had = self.stock.fill(outcome.matches)
            self.matches += had
            may_keep_all = self.keeping.take(outcome, had, left, self.matches)
            self.drained |= self._memory.settle(outcome, self.stock, self.stock.drained())
            if len(had) == len(outcome.matches) and may_keep_all:
                self.is_cut_short = outcome.is_cut_short
                return
        self.is_cut_short = True

    def idle(self, slots: Sequence[Slot]) -> list[Slot]:
        """Those of the slots that nothing is planned for."""
        used = {found.place.pilot_id for found in self.matches}
        return [slot for slot in slots if slot.place.pilot_id not in used]

    def _left_of(self, slots: Sequence[Slot]) -> list[Slot]:
        free = {slot.place.pilot_id: slot.free for slot in slots}
        for found in self.matches:
            if found.place.pilot_id in free:
                free[found.place.pilot_id] = free[found.place.pilot_id].less(found.grant)
        return [Slot(self.keeping.place(slot.place), free[slot.place.pilot_id], slot.time_left) for slot in slots]


def _carry_out(tx: Transaction, plan: _Plan, settings: Settings) -> list[Match]:
    """Assign what the limits, now locked, still leave room for; the matches kept."""
    concerned, with_rate = plan.ground.concerned(plan.matches)
    locked, rates = limits.lock(tx, concerned), limits.lock_rates(tx, with_rate)
    allowance = Allowance(locked, rates, tx.now)
    kept = trimmed(plan.matches, allowance)
    assign(tx, [_assignment(found) for found in kept], tx.after(settings.confirm_timeout))
    jobs.apply(tx, [Change(job, JobState.KILLED, "killed on request") for job in plan.stock.doomed])
    limits.move(tx, locked, allowance.limits_spent())
    limits.spend(tx, rates, allowance.starts_spent())
    bookings = {key: [Booking(charge, tx.now, charged=charge)] for key, charge in charges(kept).items()}
    usage.book(tx, bookings, settings.share_half_life)
    return kept


def _assignment(found: Match) -> Assignment:
    grant, place = found.grant, found.place
    return Assignment(
        found.job,
        place.pilot_id,
        place.site_id,
        grant.cores,
        grant.memory,
        grant.disk,
        grant.gpus,
        found.alternative,
        grant.charge,
    )


def _levels_spared(planned: Sequence[Match], kept: Sequence[Match]) -> tuple[Level, ...]:
    if len(kept) == len(planned):
        return ()
    matched = {found.job.id for found in kept}
    spared: dict[Key, Level] = {}
    for found in planned:
        if found.job.id not in matched:
            spared.setdefault((found.level.autocluster_id, found.level.priority), found.level)
    return tuple(spared.values())


def _missed(context: Context, memory: Memory, results: Sequence[_Result]) -> Mapping[int, datetime | None]:
    """Autoclusters for slots that were parked while jobs became waiting unseen, with when the oldest of those did.
    Those jobs' own news may have come too early to find the slots parked, so whoever commits last must look."""
    parking = [result for result in results if result.idle]
    if not parking:
        return {}
    idle = [slot for result in parking for slot in result.idle]
    settled = frozenset.intersection(*(result.settled for result in parking))

    def look(tx: Transaction) -> dict[int, datetime | None]:
        memory.read_others(tx)
        return {
            level.autocluster_id: level.waiting_since
            for level in memory.board.levels()
            if level.autocluster_id not in settled and wanted_by(idle, level, memory.board)
        }

    return context.database.read(look)
