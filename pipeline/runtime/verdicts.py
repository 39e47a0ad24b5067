"""From what is known of a message to what is stored and published: the rules for retries and dead letters. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import uuid_utils.compat

from pipeline.runtime.rounds import Failure, Result, Unreadable
from pipeline.store.messages import Burial, Deferral
from schemas.messages import Message
from schemas.outcomes import Backoff, Dead, Done, Retry


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of a queue: `attempts` per message, `outside_age` seconds of waiting for something outside."""

    queue: str
    attempts: int
    outside_age: float
    backoff: Backoff


@dataclass(slots=True)
class Verdicts:
    """What a round comes to."""

    follow_ups: list[Message] = field(default_factory=list)
    deferrals: list[Deferral] = field(default_factory=list)
    burials: list[Burial] = field(default_factory=list)
    done: int = 0


def judge(
    results: Sequence[tuple[bytes, Result]],
    policy: Policy,
    read: Callable[[bytes], Message],
    *,
    now: datetime,
    chance: Callable[[], float],
) -> Verdicts:
    """What is to be done about each result; `chance` gives numbers uniform in [0, 1) for the back-off."""
    verdicts = Verdicts()
    for payload, result in results:
        if isinstance(result, Done):
            verdicts.follow_ups.extend(result.follow_ups)
            verdicts.done += 1
            continue
        try:
            message = read(payload)
        except ValueError as error:
            verdicts.burials.append(bury_unreadable(policy.queue, payload, f"unreadable: {error}"))
            continue
        verdict = _judge_one(message, result, policy, now, chance)
        if isinstance(verdict, Deferral):
            verdicts.deferrals.append(verdict)
        else:
            verdicts.burials.append(verdict)
    return verdicts


def bury_message(message: Message, reason: str, traceback: str | None = None) -> Burial:
    """A readable message as a dead letter."""
    return Burial(
        queue=message.queue,
        message_id=str(message.id),
        type=message.type,
        payload=message.encode(),
        reason=reason,
        attempts=message.attempt,
        traceback=traceback,
        message=message,
    )


def bury_unreadable(queue: str, payload: bytes, reason: str) -> Burial:
    """A payload that is no message as a dead letter, the bytes kept as they are."""
    return Burial(
        queue=queue,
        message_id=digest_of(payload),
        type=_claimed_type(payload),
        payload=payload,
        reason=reason,
        attempts=1,
    )


def digest_of(payload: bytes) -> str:
    """What stands for the id of a message that can't be read."""
    return hashlib.sha256(payload).hexdigest()


def _judge_one(
    message: Message,
    result: Retry | Dead | Failure | Unreadable,
    policy: Policy,
    now: datetime,
    chance: Callable[[], float],
) -> Deferral | Burial:
    if isinstance(result, Dead | Unreadable):
        return bury_message(message, result.reason)
    if isinstance(result, Retry) and result.outside:
        return _wait_for_outside(message, result, policy, now, chance)
    if message.attempt >= policy.attempts:
        return bury_message(message, result.reason, result.traceback if isinstance(result, Failure) else None)
    wanted = result.after if isinstance(result, Retry) else None
    delay = policy.backoff.delay(message.attempt, chance()) if wanted is None else wanted
    return Deferral(message.again(), result.reason, delay)


def _wait_for_outside(
    message: Message, retry: Retry, policy: Policy, now: datetime, chance: Callable[[], float]
) -> Deferral | Burial:
    """No attempt is taken; the wait grows with the message's age. A fresh id, since brokers know a message by
    its id and attempt, and the acknowledgement of this one must not reach the next."""
    age = max(0.0, (now - message.created_at).total_seconds())
    if age > policy.outside_age:
        return bury_message(message, f"{retry.reason}; gave up after {age:.0f} s")
    ceiling = min(policy.backoff.cap, max(policy.backoff.base, age))
    delay = ceiling * chance() if retry.after is None else retry.after
    return Deferral(message.model_copy(update={"id": uuid_utils.compat.uuid7()}), retry.reason, delay)


def _claimed_type(payload: bytes) -> str:
    """The type that an unreadable payload claims to be, for the operator's filters."""
    try:
        claimed = json.loads(payload)["type"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return "unreadable"
    return claimed if isinstance(claimed, str) and 0 < len(claimed) <= 63 else "unreadable"
