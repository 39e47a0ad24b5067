"""Attempts that end badly: what becomes of their jobs, and whom that wakes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.settings import Settings
from pipeline.store import jobs, specs
from pipeline.store.database import Database, Transaction
from pipeline.store.jobs import Change, JobRow
from pipeline.store.steps import ended_steps
from schemas.lifecycle import after_infrastructure_loss
from schemas.messages import JobsReceived, Message, OutputsReported, StepsDue, about_ids
from schemas.outcomes import Backoff
from schemas.states import JOB_FINAL, JobState


@dataclass(frozen=True, slots=True)
class Rules:
    """What of the settings decides about attempts and pilots. Seconds."""

    wake_after: float
    cool_off: Backoff
    heartbeat_interval: float
    heartbeat_timeout: float
    confirm_timeout: float
    max_failures: int
    """Jobs failed in a row by its node after which a pilot takes no more."""
    node_rest: float
    """How long such a node gets none."""

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """The rules that the settings make."""
        return cls(
            wake_after=settings.wake_after,
            cool_off=Backoff(base=settings.cool_off, cap=settings.cool_off_cap),
            heartbeat_interval=settings.heartbeat_interval,
            heartbeat_timeout=settings.heartbeat_timeout,
            confirm_timeout=settings.confirm_timeout,
            max_failures=settings.pilot_max_failures,
            node_rest=settings.node_rest,
        )


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What to publish after the commit, and the steps of which jobs have ended: ask then whether they have, too."""

    messages: tuple[Message, ...] = ()
    step_ids: frozenset[int] = frozenset()

    def __add__(self, other: Aftermath) -> Aftermath:
        return Aftermath(self.messages + other.messages, self.step_ids | other.step_ids)


NOTHING = Aftermath()


def lose(tx: Transaction, found: Sequence[JobRow], reason: str, rules: Rules) -> Aftermath:
    """End the attempts of these locked jobs as infrastructure losses."""
    templates = specs.load(tx, {job.spec_id for job in found})
    changes = []
    for job in found:
        retries = templates[job.spec_id].template.retries
        verdict = after_infrastructure_loss(job.losses, retries, rules.cool_off, reason)
        changes.append(jobs.verdict_change(tx, job, verdict))
    return carry_out(tx, changes, rules)


def carry_out(tx: Transaction, changes: Iterable[Change], rules: Rules) -> Aftermath:
    """Apply changes that end attempts; a job that need not cool off is published at once."""
    changes = list(changes)
    again = {c.job.id for c in changes if c.to is JobState.RECEIVED and c.wake_at is not None and c.wake_at <= tx.now}
    settled = [replace(c, wake_at=tx.after(rules.wake_after)) if c.job.id in again else c for c in changes]
    jobs.apply(tx, settled)
    written = [c.job.id for c in settled if c.to is JobState.COMPLETING]
    messages = about_ids(JobsReceived, sorted(again), now=tx.now) + about_ids(OutputsReported, written, now=tx.now)
    return Aftermath(tuple(messages), frozenset(c.job.step_id for c in settled if c.to in JOB_FINAL))


def to_publish(database: Database, aftermath: Aftermath) -> list[Message]:
    """The messages of a committed transaction, StepsDue among them.

    Asked after the commit: of two transactions that end a step's last two jobs, the later one must see both.
    """
    if not aftermath.step_ids:
        return list(aftermath.messages)

    def ended(tx: Transaction) -> list[Message]:
        return about_ids(StepsDue, ended_steps(tx, aftermath.step_ids), now=tx.now)

    return [*aftermath.messages, *database.read(ended)]
