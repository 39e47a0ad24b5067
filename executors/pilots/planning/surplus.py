"""Which pilots go: never on the first low reading, never on an unsure one; pending ones first, then idle ones."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from executors.pilots.planning.plans import PlanRules
from executors.pilots.planning.spots import Spot
from pipeline.store.provisioning_rows import LivePilot
from schemas.sites import Removal
from schemas.states import PilotState

_DRAINING = frozenset({Removal.IDLE, Removal.ALL})


@dataclass(frozen=True, slots=True)
class Surplus:
    """What goes at one place, by pilots' ids, and how often in a row it was found to have too many."""

    low_cycles: int
    remove: tuple[int, ...] = ()
    drain: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a cycle knows of the demand at one place."""

    is_sure: bool
    is_wanted: bool
    """Whether any waiting job could run there."""
    is_alive: bool
    """Whether any job of the VO runs or waits anywhere."""


def wanted(spot: Spot) -> int:
    """Pilots that there shall be."""
    return len(spot.roll.busy) + len(spot.used_idle) + spot.used_pending + spot.requested


def surplus(spot: Spot, reading: Reading, before: int, rules: PlanRules) -> Surplus:
    """`before`: low readings in a row until now."""
    if not reading.is_sure:
        return Surplus(before)
    mode = spot.room.entry.removal
    idle = [pilot for pilot in spot.roll.idle if pilot.id not in spot.used_idle]
    excess = len(idle) + spot.stale - _allowed(spot, reading, rules)
    all_too_many = mode is Removal.ALL and not reading.is_wanted and bool(spot.roll.busy)
    if excess <= 0 and not all_too_many:
        return Surplus(0)
    low = before + 1
    if low < rules.low_cycles or spot.requested or mode is Removal.NONE:
        return Surplus(low)
    removed: tuple[int, ...] = ()
    if not reading.is_alive:
        removed = _pending(spot, excess)
    elif (low - rules.low_cycles) % _every(spot, rules) == 0:
        removed = _pending(spot, excess, half=True)
    drained: tuple[int, ...] = ()
    if mode in _DRAINING:
        drained = _idle(spot, idle, excess - len(removed), rules)
    if all_too_many and low >= rules.long_cycles:
        drained += tuple(pilot.id for pilot in spot.roll.busy)
    return Surplus(low, removed, drained)


def _allowed(spot: Spot, reading: Reading, rules: PlanRules) -> int:
    """How many may be there without need. While jobs wait that could run there, the queue's margin; while none does,
    no more of it than jobs have begun there lately in the time that another pilot would take: the next ones will come.
    """
    margin = math.floor(spot.room.entry.removal_margin * wanted(spot) + 1e-9)
    if reading.is_wanted:
        return margin
    if not reading.is_alive:
        return 0
    ahead = min(spot.prospect.usual, rules.horizon)
    return min(margin, math.ceil(spot.began() * ahead / spot.kind.whole.cores))


def _every(spot: Spot, rules: PlanRules) -> int:
    """Cycles from one removal of pending pilots to the next: they cost nothing as long as they wait, and where pilots
    wait for long, the next jobs would have to wait as long for others."""
    return max(int(spot.prospect.usual / (rules.removals * rules.cycle)), 1)


def _pending(spot: Spot, excess: int, *, half: bool = False) -> tuple[int, ...]:
    """Held ones, ones that were not submitted yet, then the youngest; all of them, or half. In whole batch jobs."""
    most = min(excess, spot.stale)
    if most <= 0:
        return ()
    goal = min(most, max((most + 1) // 2, spot.nodes)) if half else most
    return _whole(spot, sorted(spot.roll.pending, key=_least_likely), goal)


def _least_likely(pilot: LivePilot) -> tuple[bool, bool, float, int]:
    return pilot.state is not PilotState.HELD, pilot.state is not PilotState.REQUESTED, pilot.age, -pilot.id


def _idle(spot: Spot, idle: Sequence[LivePilot], most: int, rules: PlanRules) -> tuple[int, ...]:
    """Those with the least time left, of whole batch jobs that stand idle."""
    ready = sorted(
        (pilot for pilot in idle if pilot.idle_cycles >= rules.idle_cycles), key=lambda one: (one.lasts, one.id)
    )
    return _whole(spot, ready, most)


def _whole(spot: Spot, pilots: Sequence[LivePilot], most: int) -> tuple[int, ...]:
    """The first of these pilots, so many at the most; all that live of a batch job, or none."""
    if spot.nodes == 1:
        return tuple(sorted(pilot.id for pilot in pilots[: max(most, 0)]))
    found: list[int] = []
    for group in _batch_jobs(spot, pilots):
        if len(found) + len(group) <= most:
            found += [pilot.id for pilot in group]
    return tuple(sorted(found))


def _batch_jobs(spot: Spot, pilots: Iterable[LivePilot]) -> list[list[LivePilot]]:
    """The batch jobs whose live pilots are all among these; what was not submitted yet, as many as make one."""
    alive = Counter(_batch_job(pilot) for pilot in (*spot.roll.busy, *spot.roll.idle, *spot.roll.pending))
    known: defaultdict[str | None, list[LivePilot]] = defaultdict(list)
    for pilot in pilots:
        known[_batch_job(pilot)].append(pilot)
    new = known.pop(None, [])
    unsubmitted = [new[start : start + spot.nodes] for start in range(0, len(new), spot.nodes)]
    whole = [group for name, group in known.items() if len(group) == alive[name]]
    return [*(group for group in unsubmitted if len(group) == spot.nodes), *whole]


def _batch_job(pilot: LivePilot) -> str | None:
    return None if pilot.batch_id is None else pilot.batch_id.rpartition(".")[0] or pilot.batch_id
