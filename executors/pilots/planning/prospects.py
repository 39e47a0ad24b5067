"""What a site queue may be expected to do: how long its pilots wait, how many it may be trusted with, which of the
pending ones will come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf

from executors.pilots.planning.plans import PlanRules
from executors.pilots.planning.roll import Roll
from pipeline.store.provisioning_rows import History, LivePilot, Past
from schemas.states import PilotState


@dataclass(frozen=True, slots=True)
class Prospect:
    """Of one site queue. `pending`: pilots that may be pending there in all, by the queue's record alone."""

    wait: float
    """Seconds until a pilot that is requested now can be expected."""
    usual: float
    """Seconds that pilots have waited of late; where none has started, our patience."""
    speed: float
    """By which queues are weighted: how surely pilots begin to run there, and how soon. By 1 / wait the fastest would
    always be full before the others, as of what is hedged theirs start first, and a burst would find room in slow
    queues alone."""
    pending: int
    stage: str
    """In words."""
    has_started: bool = False
    """Whether any pilot of it has, of late."""
    is_dead: bool = False
    is_full: bool = False
    """Its pilots have waited for much longer than is usual, and nothing has begun or ended there meanwhile."""


def prospect(history: History, rolls: Sequence[Roll], nodes: int, rules: PlanRules) -> Prospect:
    """By its history and its live pilots. Nothing known: a few pilots; what starts earns four times as many, so that
    a queue that starts pilots gets all that it may within a few rounds of its queue time."""
    pending = [pilot.age for roll in rolls for pilot in roll.pending]
    started = max(history.started, sum(roll.began for roll in rolls))
    usual = max(rules.patience if history.queue_time is None else history.queue_time, rules.least_wait)
    blocked = max(history.vain, min(max(pending, default=0.0), inf if history.moved is None else history.moved))
    wait = max(usual, blocked)
    success = max(started, 1) / (max(started, 1) + history.stillborn)
    speed = success / (rules.near + wait)
    if started:
        words = f"{started} started of {history.submitted} of late"
        words += f", {history.stillborn} failed to start" if history.stillborn else ""
        if blocked > rules.full_after * usual:
            words = f"nothing has moved there for {blocked / 60:.0f} minutes: it seems to be full"
            return Prospect(wait, usual, speed, nodes, words, has_started=True, is_full=True)
        most = max(rules.probes * nodes, rules.growth * started)
        return Prospect(wait, usual, speed, most, words, has_started=True)
    if history.stillborn:
        words = f"none started of {history.submitted} of late, {history.stillborn} failed to start"
        return Prospect(wait, usual, speed, nodes, words, is_dead=True)
    words = "none started yet" if history.submitted or pending else "not tried of late"
    return Prospect(wait, usual, speed, rules.probes * nodes, words)


def held_off(prospect_: Prospect, past: Past | None, now: datetime) -> datetime | None:
    """Until when a dead queue gets no probe; None: it may get one, or is alive."""
    if not prospect_.is_dead or past is None or past.hold_until is None or past.hold_until <= now:
        return None
    return past.hold_until


def next_hold(history: History, now: datetime, rules: PlanRules) -> datetime:
    """When a dead queue that gets a probe now may get the next one."""
    seconds = min(rules.first_hold * 2.0 ** min(history.stillborn, 30), rules.longest_hold)
    return now + timedelta(seconds=seconds)


def coming(pilots: Sequence[LivePilot], ahead: Prospect, rules: PlanRules) -> int:
    """How many of these pending pilots can be counted on: surely the ones that have waited as long as is usual or a few
    times that, and ever fewer of the older ones. Not held ones, and none of a queue that is full."""
    if ahead.is_full:
        return 0
    sure, never = rules.sure_until * ahead.usual, rules.unsure_after * ahead.usual
    expected = 0.0
    for pilot in pilots:
        if pilot.state is not PilotState.HELD:
            expected += 1.0 if pilot.age <= sure else max((never - pilot.age) / (never - sure), 0.0)
    return int(expected + 0.5)
