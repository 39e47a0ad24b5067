"""Pilots that are alike, and how waiting jobs are packed into them: no slot counts for a job that it cannot take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from executors.pilots.planning.allowance import Allowance
from executors.pilots.planning.fitting import Want, packed
from executors.pilots.planning.spots import Spot
from executors.pilots.planning.takers import Taker
from schemas import rooms as grants
from schemas.requirements import Specification


@dataclass(frozen=True, slots=True)
class Pool:
    """Pilots that are alike: how many, what is free of each, and for how long."""

    many: int
    free: grants.Room
    lasts: float


def fresh(spot: Spot, many: int) -> Pool:
    """So many new pilots of that place."""
    return Pool(many, spot.kind.whole, spot.kind.lasts)


def allowed(want: Want, spot: Spot, allowance: Allowance) -> int:
    """How many of them limits let start here; as many as there are where nothing limits them."""
    if allowance.is_endless:
        return want.jobs
    return int(min(allowance.room(want.rules, spot.room.site_id), max(want.jobs, 0)))


def take(want: Want, spot: Spot, many: int, allowance: Allowance) -> None:
    """So many of them are provided for here."""
    if many > 0:
        want.jobs -= many
        if not allowance.is_endless:
            allowance.take(want.rules, spot.room.site_id, many)


def fill(wanted: Sequence[Taker], spot: Spot, pool: Pool, allowance: Allowance) -> int:
    """Pack waiting jobs into these pilots; how many of them got any."""
    used = 0
    while used < pool.many:
        taken = _pack(wanted, spot, pool, allowance)
        if not taken:
            break
        again = min([pool.many - used - 1, *(want.jobs // many for want, many in taken)])
        again = min([again, *(allowed(want, spot, allowance) // many for want, many in taken)])
        if again > 0:
            for want, many in taken:
                take(want, spot, again * many, allowance)
        used += 1 + max(again, 0)
    return used


def fill_alone(want: Want, one: Specification, spot: Spot, pool: Pool, allowance: Allowance) -> list[Pool]:
    """Pack such jobs alone, by one alternative, into these pilots; what is free of the pilots then."""
    power = spot.kind.fresh.power
    each, after = packed(one, pool.free, pool.lasts, power)
    most = allowed(want, spot, allowance)
    if not each or most <= 0:
        return [pool]
    full, rest = divmod(min(most, each * pool.many), each)
    take(want, spot, full * each + rest, allowance)
    left = [(full, after), (pool.many - full - bool(rest), pool.free)]
    if rest:
        left.append((1, packed(one, pool.free, pool.lasts, power, rest)[1]))
    return [Pool(many, room, pool.lasts) for many, room in left if many > 0 and room.cores > 0]


def _pack(wanted: Sequence[Taker], spot: Spot, pool: Pool, allowance: Allowance) -> list[tuple[Want, int]]:
    """What one such pilot takes."""
    free, power, taken = pool.free, spot.kind.fresh.power, []
    for want, usable in wanted:
        if want.jobs <= 0 or want.cores > free.cores:
            continue
        together = 0
        for one in usable:
            most = min(want.jobs, allowed(want, spot, allowance))
            if most <= 0:
                break
            many, free = packed(one, free, pool.lasts, power, most)
            take(want, spot, many, allowance)
            together += many
        if together:
            taken.append((want, together))
    return taken
