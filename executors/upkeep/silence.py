"""Silence: pilots that say nothing stall their jobs, and lose them when their lease is over."""

from __future__ import annotations

from structlog import get_logger

from executors.upkeep.decide import silence_is_general
from pipeline.runtime.spec import Context
from pipeline.store import pilots, silence
from pipeline.store.database import Transaction
from pipeline.store.losses import NOTHING, Aftermath, Rules, to_publish
from schemas.messages import Message

_log = get_logger("upkeep")


def run(context: Context) -> list[Message]:
    """Stall and lose; returns the messages about what that changed."""
    settings, database = context.settings, context.database
    rules = Rules.of(settings)
    hearing = database.read(lambda tx: silence.listen(tx, rules))
    if silence_is_general(
        len(hearing.silent), hearing.active, share=settings.silence_share, least=settings.silence_least
    ):
        why = f"{len(hearing.silent)} of {hearing.active} active pilots fell silent together"
        if database.transact(lambda tx: silence.pause_rescheduling(tx, why)):
            _log.error("rescheduling_paused", reason=why)
        return []
    if database.transact(silence.resume_rescheduling):
        _log.warning("rescheduling_resumed")
    aftermath = NOTHING
    for pilot in hearing.silent:
        aftermath += _deal_with(context, pilot, rules)
    return to_publish(database, aftermath)


def _deal_with(context: Context, pilot: silence.Silent, rules: Rules) -> Aftermath:
    lost = pilot.seconds > context.settings.pilot_lease
    reason = f"its pilot was silent for {pilot.seconds:.0f} s"

    def work(tx: Transaction) -> Aftermath | None:
        if not pilots.still_silent(tx, pilot.pilot_id, rules.heartbeat_timeout):
            return None  # it has spoken since the list was made
        if lost:
            return silence.lose(tx, pilot.pilot_id, rules, reason)
        silence.stall(tx, pilot.pilot_id)
        return NOTHING

    aftermath = context.database.transact(work)
    if aftermath is None:
        return NOTHING
    _log.warning("pilot_silent", pilot_id=pilot.pilot_id, seconds=round(pilot.seconds), lost=lost)
    return aftermath
