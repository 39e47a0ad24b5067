"""Silence: pilots that say nothing stall their jobs, and lose them when their lease is over."""

from __future__ import annotations

from structlog import get_logger

from executors.upkeep.decide import silence_is_general
from pipeline.runtime.spec import Context
from pipeline.store import silence, steps
from pipeline.store.database import Transaction
from schemas.messages import Message, StepsDue, about_ids
from schemas.outcomes import Backoff

DEAF = 3
"""The API is deaf when it has not served for so many heartbeat intervals."""

_log = get_logger("upkeep")


def run(context: Context) -> list[Message]:
    """Stall and lose; returns StepsDue for steps whose last job has ended so."""
    settings, database = context.settings, context.database
    hearing = database.transact(
        lambda tx: silence.listen(tx, timeout=settings.heartbeat_timeout, deaf_after=DEAF * settings.heartbeat_interval)
    )
    if silence_is_general(
        len(hearing.silent), hearing.active, share=settings.silence_share, least=settings.silence_least
    ):
        why = f"{len(hearing.silent)} of {hearing.active} active pilots fell silent together"
        if database.transact(lambda tx: silence.pause_rescheduling(tx, why)):
            _log.error("rescheduling_paused", reason=why)
        return []
    if database.transact(silence.resume_rescheduling):
        _log.warning("rescheduling_resumed")
    touched: set[int] = set()
    for pilot in hearing.silent:
        touched |= _deal_with(context, pilot)
    return database.transact(lambda tx: about_ids(StepsDue, steps.ended_steps(tx, touched), now=tx.now))


def _deal_with(context: Context, pilot: silence.Silent) -> set[int]:
    settings = context.settings
    reason = f"its pilot was silent for {pilot.seconds:.0f} s"
    cool_off = Backoff(base=settings.cool_off, cap=settings.cool_off_cap)

    def work(tx: Transaction) -> set[int]:
        if pilot.seconds > settings.pilot_lease:
            return silence.lose(tx, pilot.pilot_id, cool_off, reason)
        silence.stall(tx, pilot.pilot_id)
        return set()

    touched = context.database.transact(work)
    _log.warning("pilot_silent", pilot_id=pilot.pilot_id, seconds=round(pilot.seconds), lost=bool(touched))
    return touched
