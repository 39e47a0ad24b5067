"""StepsDue: close steps whose jobs have ended, or block them, and release those that come after."""

from __future__ import annotations

from collections.abc import Sequence

from executors.data.decide import step_outcome
from pipeline.runtime.spec import Context
from pipeline.store import steps
from pipeline.store.database import Transaction
from pipeline.store.steps import Window
from schemas.messages import Message
from schemas.states import StepState


def settle(context: Context, step_ids: Sequence[int]) -> list[Message]:
    """Deal with steps; returns the first messages of those that were released."""

    def work(tx: Transaction) -> list[Message]:
        window = Window(context.settings.campaign_window, tx.after(context.settings.wake_after))
        messages: list[Message] = []
        for campaign_id in steps.campaigns_of(tx, step_ids):
            _, latest = steps.lock_campaign(tx, campaign_id)
            ended = set(steps.ended_steps(tx, [step.id for step in latest]))
            for step in latest:
                if step.id in ended:
                    _end(tx, step)
            messages += steps.settle(tx, campaign_id, window)
        return messages

    return context.database.transact(work)


def _end(tx: Transaction, step: steps.StepRow) -> None:
    if step_outcome(steps.job_counts(tx, step.id), step.min_success) is StepState.CLOSED:
        steps.close(tx, step)
    else:
        steps.set_state(tx, step, StepState.BLOCKED)
