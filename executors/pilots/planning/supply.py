"""What waiting jobs take of what is there: free slots first, pilots on their way, then cores that get free soon."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import inf

from executors.pilots.planning.allowance import Allowance
from executors.pilots.planning.plans import PlanRules
from executors.pilots.planning.pools import Pool, allowed, fill, fresh, take
from executors.pilots.planning.spots import Spot
from executors.pilots.planning.takers import Takers
from pipeline.store.provisioning_rows import LivePilot
from schemas import rooms as grants

_ALIKE = 60.0
"""Seconds: pilots whose times left differ by less are taken for alike, by the shorter one."""


def serve(takers: Takers, spots: Sequence[Spot], allowance: Allowance, rules: PlanRules) -> None:
    """Take off the demand what fits free slots and, hedged, pilots that surely come, the largest jobs first."""
    for spot in spots:
        if not spot.room.banned and (spot.roll.busy or spot.roll.idle):
            _serve_active(takers, spot, allowance)
    _hedge(takers, spots, rules)
    for spot in spots:
        if spot.coming and not spot.room.banned:
            spot.used_pending = fill(takers.at(spot), spot, fresh(spot, spot.coming), allowance)


def _hedge(takers: Takers, spots: Sequence[Spot], rules: PlanRules) -> None:
    """Count the jobs that find no free slot several times over where pilots are known to wait in queues.

    Whichever of them start first take the jobs, and the others go again: that costs next to nothing as long as they
    are pending, and shortens the wait. Where a pilot starts at once there is nothing to be gained.
    """
    soonest: dict[int, float] = {}
    for spot in spots:
        # also where the hedge itself has used up all room: else it would end there, be taken back, and begin anew
        waits = bool(spot.roll.pending) or (not spot.room.closed and spot.left() > 0)
        if waits and not spot.room.banned and spot.prospect.has_started:
            vo_id = spot.room.vo_id
            soonest[vo_id] = min(soonest.get(vo_id, inf), spot.prospect.usual)
    for vo_id, seconds in soonest.items():
        times = 1.0 + (rules.hedge - 1.0) * min((seconds - rules.least_wait) / rules.least_wait, 1.0)
        for want in takers.by_vo.get(vo_id, ()):
            want.jobs = int(want.jobs * times)


def foresee(takers: Takers, spots: Sequence[Spot], allowance: Allowance, rules: PlanRules) -> None:
    """Take off the demand what cores will take that get free before a new pilot could come.

    Only jobs as narrow as the ones that run there: cores that get free one by one are no place for a wide one.
    """
    soonest: dict[int, float] = {}
    for spot in spots:
        if not spot.room.closed and spot.left() > 0:
            vo_id = spot.room.vo_id
            soonest[vo_id] = min(soonest.get(vo_id, rules.horizon), spot.prospect.wait)
    for spot in spots:
        horizon = soonest.get(spot.room.vo_id, 0.0)
        cores = rules.foresight * horizon * spot.freed() if horizon and spot.roll.busy and not spot.room.banned else 0.0
        if cores < 1:
            continue
        width = spot.width()
        for want, _ in takers.at(spot):
            if want.cores > width:
                continue
            many = min(want.jobs, int(cores / want.cores), allowed(want, spot, allowance))
            take(want, spot, many, allowance)
            cores -= many * want.cores


def _serve_active(takers: Takers, spot: Spot, allowance: Allowance) -> None:
    """Pilots that run jobs come first: what they take leaves idle ones without need."""
    alike: defaultdict[tuple[bool, int, int, int, int, int], list[LivePilot]] = defaultdict(list)
    for is_idle, pilots in ((False, spot.roll.busy), (True, spot.roll.idle)):
        for pilot in pilots:
            if pilot.cores > 0:
                lasts = int(pilot.lasts // _ALIKE)
                alike[is_idle, lasts, pilot.cores, pilot.memory, pilot.disk, pilot.gpus].append(pilot)
    wanted = takers.at(spot) if alike else []
    for (is_idle, lasts, *free), pilots in sorted(alike.items(), key=lambda one: one[0]):
        pool = Pool(len(pilots), grants.Room(*free), max(lasts * _ALIKE, 0.0))
        used = fill(wanted, spot, pool, allowance)
        if is_idle:
            spot.used_idle.update(pilot.id for pilot in pilots[:used])
