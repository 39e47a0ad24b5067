"""What provisioning would do now: a plan of which nothing is carried out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from executors.pilots.demand import read_demand
from executors.pilots.planning.decide import PlaceOrder, PlanRules, plan
from pipeline.settings import Settings
from pipeline.store import provisioning
from pipeline.store.access import vo_name
from pipeline.store.database import Transaction
from pipeline.store.provisioning_rows import LivePilot, Place, Situation
from pipeline.store.queue_backoff import backoffs
from schemas.plan_views import PlanRow, PlanView
from schemas.states import PilotState


def preview(tx: Transaction, settings: Settings, vo_id: int) -> PlanView:
    """The plan of all VOs, since they share queues, of which one VO sees its own part.

    Raises DemandUnknown when a demand source fails.
    """
    now = provisioning.situation(tx, read_demand(tx, settings))
    made = plan(now, PlanRules(margin=settings.pilot_margin))
    rows = _Rows(now, vo_name(tx, vo_id), backoffs(tx))
    mine = [order for order in made.orders if order.room.vo_id == vo_id]
    wanted = [one for one in now.reading.demand if one.vo_id == vo_id]
    return PlanView(
        items=tuple(rows.row(order) for order in mine),
        is_sure=now.reading.is_sure,
        waiting_jobs=sum(one.jobs for one in wanted),
        waiting_cores=sum(one.jobs * one.requirement.specifications()[0].min_cores for one in wanted),
        request=sum(order.request for order in mine),
        remove=sum(len(order.remove) for order in mine),
        drain=sum(len(order.drain) for order in mine),
    )


class _Rows:
    """Makes rows of the orders of one VO; `until`: when site queues are left alone that are so now."""

    def __init__(self, now: Situation, vo: str, until: Mapping[int, datetime]) -> None:
        self._vo = vo
        self._backoffs = until
        self._states: dict[Place, Counter[PilotState]] = {}
        self._idle: Counter[Place] = Counter()
        for pilot in now.pilots:
            self._states.setdefault(pilot.place, Counter())[pilot.state] += 1
            self._idle[pilot.place] += _is_idle(pilot)

    def row(self, order: PlaceOrder) -> PlanRow:
        room = order.room
        return PlanRow(
            site=room.site,
            queue=room.entry.name,
            vo=self._vo,
            waiting_jobs=order.waiting_jobs,
            waiting_cores=order.waiting_cores,
            pilots=dict(self._states.get(room.place, {})),
            idle=self._idle[room.place],
            wanted=order.wanted,
            request=order.request,
            remove=len(order.remove),
            drain=len(order.drain),
            low_cycles=order.low_cycles,
            hold_until=order.hold_until,
            backoff_until=self._backoffs.get(room.site_queue_id),
            why=order.why,
        )


def _is_idle(pilot: LivePilot) -> bool:
    return pilot.state is PilotState.RUNNING and not pilot.leaves and not pilot.jobs
