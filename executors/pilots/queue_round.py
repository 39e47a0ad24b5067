"""One round of one site queue under its lease: poll by tag and adopt, submit what is requested, remove the unwanted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import uuid_utils.compat
from structlog import get_logger

from executors.pilots.follow import Hearing, Steps, follow, healthy
from executors.pilots.port import BatchSystem, PilotRequest, QueueSettings, open_batch_system
from executors.pilots.program import find_program
from pipeline.errors import BadSettings, BatchSystemUnavailable
from pipeline.runtime.spec import Context
from pipeline.store import heartbeats, pilots, queue_pilots
from pipeline.store.database import Transaction
from pipeline.store.losses import Aftermath, Rules, to_publish
from pipeline.store.queue_pilots import BatchPilot, LeasedQueue, Move
from schemas.messages import Message
from schemas.outcomes import Backoff

DEADLINE = 120.0
"""Seconds that a batch of this queue's messages may take; the lease is longer."""
LEASE = DEADLINE + 30.0
SECRET_LIFE = 7 * 86_400.0
"""Seconds that a submitted pilot may wait in its batch queue until its secret is worth nothing."""
BACKOFF = Backoff(base=15.0, cap=1_800.0)

_log = get_logger("pilots")


def carry_out(context: Context, site_queue_id: int) -> list[Message]:
    """One round, unless another consumer is at it; the messages about jobs of pilots that have ended.

    A batch system that fails makes this queue back off, and nobody else notice.
    """
    owner = uuid_utils.compat.uuid7().hex
    queue = context.database.transact(lambda tx: queue_pilots.lease(tx, site_queue_id, owner, LEASE))
    if queue is None:
        return []
    try:
        messages, trouble = _round(context, queue)
    except (BatchSystemUnavailable, BadSettings) as error:
        messages, trouble = [], str(error)
    if trouble:
        seconds = BACKOFF.ceiling(queue.failures + 1)
        _log.warning("site_queue_backed_off", queue=queue.label, seconds=seconds, reason=trouble)
        context.database.transact(lambda tx: queue_pilots.back_off(tx, queue, owner, seconds, trouble))
    else:
        well = healthy(queue.pilots)
        context.database.transact(lambda tx: queue_pilots.release(tx, queue, owner, healthy=well))
    return messages


def _round(context: Context, queue: LeasedQueue) -> tuple[list[Message], str]:
    """The messages, and what is wrong with the queue if its pilots end before they enrol."""
    settings = context.settings
    system = open_batch_system(QueueSettings(queue.label, queue.entry, settings.resolved_data_dir()))
    answers = system.poll([pilot.tag for pilot in queue.pilots])
    steps = follow(queue.pilots, answers, _hearing(context, queue))
    found = {pilot.tag: answers[pilot.tag].handle for pilot, _ in steps.moves if pilot.tag in answers}

    def adopt(tx: Transaction) -> None:
        queue_pilots.submitted(tx, {tag: found[tag] for tag in _unsubmitted(queue, found)})
        queue_pilots.move_pending(tx, [Move(pilot.id, then.to, then.reason) for pilot, then in steps.moves])

    context.database.transact(adopt)
    messages = _end(context, steps)
    system.remove(steps.remove)
    if steps.remove:
        _log.info("pilots_removed", queue=queue.label, count=len(steps.remove))
    if steps.stillborn:
        return messages, f"{len(steps.stillborn)} pilots failed to start; the last one {steps.stillborn[-1]}"
    _submit(context, queue, system, steps.submit)
    return messages, ""


def _hearing(context: Context, queue: LeasedQueue) -> Hearing:
    settings = context.settings
    gap = heartbeats.SERVING_GAP * settings.heartbeat_interval
    since = context.database.read(lambda tx: heartbeats.serving_since(tx, gap))
    return Hearing(queue.now, since, settings.heartbeat_timeout)


def _unsubmitted(queue: LeasedQueue, found: Mapping[str, str]) -> list[str]:
    return [pilot.tag for pilot in queue.pilots if pilot.tag in found and pilot.submitted_at is None]


def _end(context: Context, steps: Steps) -> list[Message]:
    """Enrolled pilots whose batch job has ended and that are silent take their jobs with them."""
    rules = Rules.of(context.settings)
    messages: list[Message] = []
    for pilot, then in steps.ends:
        ending = pilots.Ending(then.to, then.reason, unless_seen_after=pilot.last_seen)

        def work(tx: Transaction, pilot_id: int = pilot.id, ending: pilots.Ending = ending) -> Aftermath:
            return pilots.end(tx, pilot_id, ending, rules)

        messages += to_publish(context.database, context.database.transact(work))
        _log.info("pilot_ended", pilot_id=pilot.id, state=then.to, reason=then.reason)
    return messages


def _submit(context: Context, queue: LeasedQueue, system: BatchSystem, wanted: Sequence[BatchPilot]) -> None:
    """Per VO, a secret for so many uses: committed before anything is submitted, so that no pilot comes unknown."""
    if not wanted:
        return
    program = find_program(context.settings, queue.entry)
    by_vo: defaultdict[int, list[BatchPilot]] = defaultdict(list)
    for pilot in wanted:
        by_vo[pilot.vo_id].append(pilot)
    for vo_id, mine in by_vo.items():

        def secret_for(tx: Transaction, vo_id: int = vo_id, uses: int = len(mine)) -> str:
            return pilots.new_secret(tx, queue.id, vo_id, uses=uses, valid_for=SECRET_LIFE)

        secret = context.database.transact(secret_for)
        taken = system.submit([PilotRequest(pilot.tag, secret) for pilot in mine], program)
        handles = {tag: one.handle for tag, one in taken.items()}

        def note(tx: Transaction, handles: Mapping[str, str] = handles) -> None:
            queue_pilots.submitted(tx, handles)

        context.database.transact(note)
        _log.info("pilots_submitted", queue=queue.label, count=len(handles))
