"""Held jobs are looked at again when a ban ends, and now and then."""

from __future__ import annotations

from pipeline.runtime.spec import Context
from pipeline.store import bans, held
from schemas.messages import Message


def after_bans(context: Context) -> list[Message]:
    """End bans whose time is over; when there were any, the messages about jobs that were held."""
    if not context.database.transact(bans.end_bans):
        return []
    return wake(context)


def wake(context: Context, vo_id: int | None = None) -> list[Message]:
    """The messages about the held jobs of a VO (None: of all), received again."""
    settings = context.settings
    woken = held.wake_held(context.database, vo_id, window=settings.campaign_window, wake_after=settings.wake_after)
    return list(woken.messages)
