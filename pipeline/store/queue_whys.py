"""What each site queue of a VO has to say to one job: whether it fits, what keeps it away, what is free there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Row, func, or_, select

from pipeline.store import matching
from pipeline.store.access import vo_name
from pipeline.store.bans import in_force
from pipeline.store.database import Transaction
from pipeline.store.matching import Alive
from pipeline.store.nodes import resting_queues
from pipeline.store.queue_backoff import left_alone
from pipeline.store.tables import bans, pilots, site_queues, sites
from schemas.placement import fresh_pilot
from schemas.requirements import Requirement, fits, grant
from schemas.rooms import Room
from schemas.share_views import LimitView
from schemas.sites import SiteQueueEntry
from schemas.states import PILOT_FINAL, PilotState
from schemas.why_views import QueueWhy

MOST_SLOTS = 2_000
"""Parked slots that are looked at: beyond, there is room anyway."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about: a job's requirement, type and autocluster, and the limits that it counts against.

    `margin` is how many seconds before its wall time a pilot ends.
    """

    vo_id: int
    requirement: Requirement
    job_type: str
    autocluster_id: int | None
    margin: float
    alive: Alive
    limits: Sequence[LimitView]


@dataclass(slots=True)
class _Free:
    """What parked slots of a queue have left."""

    cores: int = 0
    jobs: int = 0


def queue_whys(tx: Transaction, asked: Asked) -> list[QueueWhy]:
    """Every declared site queue of the VO, those that fit first, else by site and name."""
    rows = _queues(tx, asked.vo_id)
    bans_of = _bans(tx, asked.vo_id)
    counts = _pilots(tx, asked.vo_id)
    free = _free(tx, asked)
    resting = resting_queues(tx)
    found = []
    for row, entry in rows:
        fit = fits(asked.requirement, fresh_pilot(row.site, entry, asked.margin))
        alone = left_alone(row.backoff_until, row.reason, tx.now) or resting.get(row.id)
        backoff_until, backoff_reason = alone or (None, None)
        concerned = [ban for ban in bans_of.get(row.site_id, ()) if ban.site_queue_id in (None, row.id)]
        found.append(
            QueueWhy(
                site=row.site,
                queue=row.name,
                fits=bool(fit),
                missing=fit.reasons,
                banned=next((f"by {ban.banned_by}: {ban.why}" for ban in concerned if not ban.only_job_type), None),
                test_mode=_other_type(concerned, asked.job_type),
                backoff_until=backoff_until,
                backoff_reason=backoff_reason,
                full=tuple(limit.name for limit in asked.limits if limit.site in (None, row.site) and not limit.free),
                max_pilots=entry.max_pilots,
                pilots=counts.get(row.id, {}),
                free_cores=free[row.id].cores,
                room_for=free[row.id].jobs,
            )
        )
    return sorted(found, key=lambda one: not one.fits)


def _queues(tx: Transaction, vo_id: int) -> list[tuple[Row[Any], SiteQueueEntry]]:
    vo = vo_name(tx, vo_id)
    query = (
        select(site_queues, sites.c.name.label("site"))
        .join(sites, sites.c.id == site_queues.c.site_id)
        .where(site_queues.c.declared, sites.c.declared)
        .order_by(sites.c.name, site_queues.c.name)
    )
    parsed = ((row, SiteQueueEntry.model_validate_json(row.entry)) for row in tx.rows(query))
    return [(row, entry) for row, entry in parsed if vo in entry.vos]


def _bans(tx: Transaction, vo_id: int) -> Mapping[int, list[Row[Any]]]:
    """By site, those in force that concern the VO."""
    found: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in tx.rows(select(bans).where(in_force(tx), or_(bans.c.vo_id.is_(None), bans.c.vo_id == vo_id))):
        found[row.site_id].append(row)
    return found


def _other_type(concerned: Iterable[Row[Any]], job_type: str) -> str | None:
    """The last word on test mode is that of the latest row."""
    types = [ban.only_job_type for ban in concerned if ban.only_job_type]
    return types[-1] if types and types[-1] != job_type else None


def _pilots(tx: Transaction, vo_id: int) -> Mapping[int, dict[PilotState, int]]:
    query = (
        select(pilots.c.site_queue_id, pilots.c.state, func.count().label("many"))
        .where(pilots.c.vo_id == vo_id, pilots.c.state.not_in(PILOT_FINAL))
        .group_by(pilots.c.site_queue_id, pilots.c.state)
    )
    found: defaultdict[int, dict[PilotState, int]] = defaultdict(dict)
    for row in tx.rows(query):
        found[row.site_queue_id][PilotState(row.state)] = row.many
    return found


def _free(tx: Transaction, asked: Asked) -> defaultdict[int, _Free]:
    """By queue, what its usable parked slots have left: others are full, or about to be filled."""
    parked = matching.parked_slots(tx, [asked.vo_id])
    some = dict(islice(sorted(parked.items()), MOST_SLOTS))
    places = matching.places(tx, some, matching.Kinds(), asked.alive)
    taken = matching.occupied(tx, places)
    found: defaultdict[int, _Free] = defaultdict(_Free)
    for pilot_id, place in places.items():
        room = _difference(some[pilot_id].total, taken.get(pilot_id, Room(0, 0, 0)))
        found[place.queue_id].cores += max(room.cores, 0)
        kept_from_it = place.reserved_for not in (None, asked.autocluster_id)
        if (
            not kept_from_it
            and place.only_job_type in (None, asked.job_type)
            and fits(asked.requirement, place.resource)
        ):
            left = (some[pilot_id].ends_at - tx.now).total_seconds()
            found[place.queue_id].jobs += sum(1 for _ in _granted(asked.requirement, room, left, place.resource.power))
    return found


def _granted(requirement: Requirement, room: Room, left: float, power: float | None) -> Iterator[Room]:
    """The room that is left after each of as many such jobs as find place."""
    while True:
        grants = (grant(one, room, left, power) for one in requirement.specifications())
        found = next((one for one in grants if one is not None), None)
        if found is None:
            return
        room = room.less(found)
        yield room


def _difference(total: Room, taken: Room) -> Room:
    return Room(
        total.cores - taken.cores, total.memory - taken.memory, total.disk - taken.disk, total.gpus - taken.gpus
    )
