"""The rules for retries and dead letters."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from pipeline.runtime.rounds import Failure, Result, Unreadable
from pipeline.runtime.verdicts import Policy, Verdicts, judge
from schemas.messages import JobsReceived, Message, decode
from schemas.outcomes import Backoff, Dead, Done, Retry

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = Policy("optimisation", attempts=3, outside_age=3600.0, backoff=Backoff(base=2.0, factor=2.0, cap=60.0))


def message(attempt: int = 1, age: float = 0.0) -> Message:
    made = Message.about(JobsReceived(job_ids=(1, 2)), now=NOW - timedelta(seconds=age))
    return made.model_copy(update={"attempt": attempt})


def verdicts_on(result: Result, about: Message | bytes, chance: float = 0.5) -> Verdicts:
    raw = about if isinstance(about, bytes) else about.encode()
    catalogue = {"JobsReceived": JobsReceived}
    return judge([(raw, result)], POLICY, lambda p: decode(p, catalogue), now=NOW, chance=lambda: chance)


def test_follow_ups_of_what_is_done_are_collected() -> None:
    following = message()
    verdicts = verdicts_on(Done((following,)), message())
    assert (verdicts.follow_ups, verdicts.done) == ([following], 1)


def test_a_failure_takes_an_attempt_and_waits_with_jitter() -> None:
    failing = message(attempt=2)
    (deferral,) = verdicts_on(Failure("it broke"), failing).deferrals
    assert deferral.message == failing.again()
    assert (deferral.reason, deferral.delay) == ("it broke", 2.0)


def test_attempts_exhausted_make_a_dead_letter_with_the_reason_and_the_traceback() -> None:
    failing = message(attempt=3)
    (burial,) = verdicts_on(Failure("it broke", traceback="line 1"), failing).burials
    assert (burial.reason, burial.traceback, burial.attempts) == ("it broke", "line 1", 3)
    assert (burial.message, burial.payload) == (failing, failing.encode())


def test_a_retry_takes_an_attempt_and_may_say_when() -> None:
    (deferral,) = verdicts_on(Retry("early", after=7.0), message()).deferrals
    assert (deferral.message.attempt, deferral.delay) == (2, 7.0)


def test_what_is_down_outside_takes_no_attempt_and_waits_longer_with_age() -> None:
    waits = []
    for age in (0.0, 10.0, 1000.0):
        waiting = message(attempt=3, age=age)
        (deferral,) = verdicts_on(Retry("down", outside=True), waiting, chance=1.0).deferrals
        assert deferral.message.attempt == 3
        assert deferral.message.id != waiting.id, "else the old one's acknowledgement could remove the new one"
        assert deferral.message.created_at == waiting.created_at
        waits.append(deferral.delay)
    assert waits == [2.0, 10.0, 60.0]


def test_what_is_down_outside_for_too_long_dies() -> None:
    (burial,) = verdicts_on(Retry("down", outside=True), message(age=3601)).burials
    assert burial.reason == "down; gave up after 3601 s"


def test_a_message_said_to_be_dead_dies_at_its_first_attempt() -> None:
    (burial,) = verdicts_on(Dead("hopeless"), message()).burials
    assert (burial.reason, burial.attempts) == ("hopeless", 1)


def test_garbage_is_kept_byte_by_byte() -> None:
    (burial,) = verdicts_on(Unreadable("unreadable: no JSON"), b"\xff\x00garbage").burials
    assert (burial.payload, burial.message, burial.type) == (b"\xff\x00garbage", None, "unreadable")
    assert burial.reason.startswith("unreadable: ")


def test_a_message_of_an_unknown_type_keeps_its_type_for_the_operator() -> None:
    raw = json.dumps({**json.loads(message().encode()), "type": "JobsVanished"}).encode()
    (burial,) = verdicts_on(Failure("crashed"), raw).burials
    assert burial.type == "JobsVanished"
    assert "unknown message type 'JobsVanished'" in burial.reason
