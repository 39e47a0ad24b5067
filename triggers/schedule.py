"""The declared schedule: what is to be done again and again, and how often (UTC; the sixth field is seconds)."""

from __future__ import annotations

from datetime import datetime

from pipeline.settings import Settings
from pipeline.trigger import Trigger, tick
from schemas.messages import Body, ProvisioningDue


def _provisioning(scheduled_for: datetime) -> Body:
    return ProvisioningDue(cycle=int(scheduled_for.timestamp()))


def _has_place_for_traces(settings: Settings) -> bool:
    return bool(settings.traces_url)


SCHEDULE = (
    Trigger("deferred", "* * * * * */2", tick("deferred"), grace=20.0),
    Trigger("reconcile", "* * * * * */30", tick("reconcile"), grace=60.0),
    Trigger("silence", "* * * * * */15", tick("silence"), grace=30.0),
    Trigger("metrics", "* * * * * */15", tick("metrics"), grace=15.0, since="0.5.0"),
    Trigger("traces", "* * * * * 5-59/15", tick("traces"), grace=15.0, since="0.5.0", wanted=_has_place_for_traces),
    Trigger("provisioning", "* * * * * */20", _provisioning, grace=40.0),
    Trigger("bans", "* * * * * 10", tick("bans"), grace=120.0),
    Trigger("drains", "* * * * * */10", tick("drains"), grace=30.0, since="0.5.0"),
    Trigger("tails", "* * * * * 25", tick("tails"), grace=120.0),
    Trigger("losers", "* * * * * 40", tick("losers"), grace=120.0),
    Trigger("held", "7 * * * *", tick("held"), grace=1_800.0),
    Trigger("recount", "*/10 * * * *", tick("recount"), grace=300.0),
    Trigger("shares", "5-59/10 * * * *", tick("shares"), grace=300.0),
    Trigger("retention", "*/5 * * * *", tick("retention"), grace=120.0),
    Trigger("replicas", "41 3 * * *", tick("replicas"), grace=7_200.0),
)
