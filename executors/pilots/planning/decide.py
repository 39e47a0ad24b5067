"""The pure rules of provisioning: what is wanted, what is there, what may be requested, what goes.

Waiting jobs that fit free slots, pilots that surely come, or cores that get free soon want nothing, nor do those that a
limit keeps back. The rest is shared over the fitting queues. What is there without need goes slowly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from executors.pilots.planning.allowance import Allowance
from executors.pilots.planning.ceilings import lowest
from executors.pilots.planning.fitting import wants
from executors.pilots.planning.plans import PlaceOrder, Plan, PlanRules
from executors.pilots.planning.prospects import next_hold
from executors.pilots.planning.roll import Roll, call
from executors.pilots.planning.sharing import Sharing
from executors.pilots.planning.spots import Spot, spots
from executors.pilots.planning.supply import foresee, serve
from executors.pilots.planning.surplus import Reading, Surplus, surplus, wanted
from executors.pilots.planning.takers import Takers
from pipeline.store.provisioning_rows import History, Past, Place, Situation

__all__ = ["PlaceOrder", "Plan", "PlanRules", "plan"]

_DEFAULTS = PlanRules()
_NEW = Past()


def plan(now: Situation, rules: PlanRules = _DEFAULTS) -> Plan:
    """What to request, to remove and to drain at each place, why, and until when to hold off."""
    rolls = call(now.pilots)
    places = spots(now, rolls, rules)
    allowance = Allowance(now.limits)
    takers = Takers(wants(now.reading.demand, allowance))
    serve(takers, places, allowance, rules)
    foresee(takers, places, allowance, rules)
    sharing = Sharing(takers, places, allowance)
    sharing.share()
    sharing.keep()
    alive = takers.by_vo.keys() | {vo_id for (_, vo_id), roll in rolls.items() if roll.busy}
    orders = tuple(_order(now, spot, takers, spot.room.vo_id in alive, rules) for spot in places)
    return Plan(orders, _strays(rolls, {spot.room.place for spot in places}))


def _order(now: Situation, spot: Spot, takers: Takers, is_alive: bool, rules: PlanRules) -> PlaceOrder:
    jobs, cores = takers.waiting(spot)
    before = now.past.get(spot.room.place, _NEW)
    gone = surplus(spot, Reading(now.reading.is_sure, jobs > 0, is_alive), before.low_cycles, rules)
    hold_until = None
    if spot.prospect.is_dead:
        history = now.history.get(spot.room.site_queue_id, History())
        hold_until = next_hold(history, now.now, rules) if spot.requested else before.hold_until
    return PlaceOrder(
        room=spot.room,
        wanted=wanted(spot),
        request=spot.requested,
        remove=gone.remove,
        drain=gone.drain,
        low_cycles=gone.low_cycles,
        hold_until=hold_until,
        why=_why(spot, gone, jobs, cores),
        waiting_jobs=jobs,
        waiting_cores=cores,
    )


def _strays(rolls: Mapping[Place, Roll], declared: Collection[Place]) -> tuple[int, ...]:
    gone = [roll for place, roll in rolls.items() if place not in declared]
    return tuple(sorted(pilot.id for roll in gone for pilot in roll.pending))


def _why(spot: Spot, gone: Surplus, jobs: int, cores: int) -> str:
    """One line for people."""
    room = spot.room
    said = [f"{jobs} jobs wait that could run here, {cores} cores" if jobs else "no job waits that could run here"]
    if spot.requested:
        said.append(f"{spot.requested} pilots requested")
    there = len(spot.roll.busy) + len(spot.roll.idle)
    said.append(f"{there} pilots run, {len(spot.roll.idle)} of them idle, {len(spot.roll.pending)} are pending")
    if room.closed:
        said.append(f"nothing new: {room.closed}")
    elif spot.hold_until is not None:
        said.append(f"held off until {spot.hold_until:%H:%M:%S} UTC: {spot.prospect.stage}")
    elif jobs and spot.left() <= 0:
        said.append(f"nothing more: {lowest(spot.ceilings).label} ({spot.prospect.stage})")
    elif jobs:
        said.append(spot.prospect.stage)
    if gone.remove or gone.drain:
        said.append(f"{len(gone.remove)} pending removed, {len(gone.drain)} drained: not needed")
    elif gone.low_cycles:
        said.append(f"more than needed for {gone.low_cycles} cycles")
    return "; ".join(said)
