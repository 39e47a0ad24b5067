"""Messages: what is on the wire stays on the wire, and nothing else is let in."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import (
    CORE_BODIES,
    MAX_BYTES,
    MAX_IDS,
    Body,
    FilesDue,
    JobsReceived,
    JobsWaiting,
    Message,
    OutputsReported,
    ProvisioningDue,
    SiteQueuesDue,
    SlotsOffered,
    StepsDue,
    Tick,
    about_ids,
    decode,
)

GOLDEN = Path(__file__).with_name("golden")
"""One file per message type and version, TYPE.vN.json: what a peer sends. Never changed, only added to."""

NOW = datetime(2026, 3, 1, 12, 30, 45, 123456, tzinfo=UTC)
BODIES = {body.type_name(): body for body in CORE_BODIES}
EXPECTED: dict[str, Body] = {
    "JobsReceived.v1": JobsReceived(job_ids=(1, 2, 9_000_000_000)),
    "SlotsOffered.v1": SlotsOffered(pilot_ids=(4,)),
    "JobsWaiting.v1": JobsWaiting(autocluster_ids=(7, 8)),
    "ProvisioningDue.v1": ProvisioningDue(cycle=42),
    "SiteQueuesDue.v1": SiteQueuesDue(site_queue_ids=(3, 1, 2)),
    "OutputsReported.v1": OutputsReported(job_ids=(5,)),
    "StepsDue.v1": StepsDue(step_ids=(6,)),
    "FilesDue.v1": FilesDue(file_ids=(10, 11)),
    "Tick.v1": Tick(name="reconcile", scheduled_for=datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Letter(Body):
    """A body of any size."""

    queue: ClassVar[str] = "letters"
    text: str


def golden_message(name: str) -> Message:
    body = EXPECTED[name]
    return Message(
        id=UUID("0195512a-7b3c-7def-8123-456789abcdef"), type=body.type_name(), version=body.version,
        created_at=NOW, attempt=2, trace=TRACE, body=body,
    )  # fmt: skip


def fields(**changes: Any) -> dict[str, Any]:
    """A valid message as JSON fields, with changes."""
    sound: dict[str, Any] = json.loads(golden_message("JobsReceived.v1").encode())
    return {**sound, **changes}


def jobs(*ids: int) -> Message:
    return Message.about(JobsReceived(job_ids=ids), now=NOW)


def test_every_message_type_has_a_golden_file() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(EXPECTED)
    assert {(body.type_name(), body.version) for body in CORE_BODIES} == {
        (body.type_name(), body.version) for body in EXPECTED.values()
    }


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_golden_message_is_understood(name: str) -> None:
    assert decode((GOLDEN / f"{name}.json").read_bytes(), BODIES) == golden_message(name)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_message_is_written_as_in_its_golden_file(name: str) -> None:
    assert golden_message(name).encode() == (GOLDEN / f"{name}.json").read_bytes().rstrip(b"\n")


def test_a_message_travels_on_the_queue_of_its_body() -> None:
    assert {name: golden_message(name).queue for name in EXPECTED} == {
        "JobsReceived.v1": "optimisation",
        "SlotsOffered.v1": "matching",
        "JobsWaiting.v1": "matching",
        "ProvisioningDue.v1": "pilots",
        "SiteQueuesDue.v1": "pilots",
        "OutputsReported.v1": "data",
        "StepsDue.v1": "data",
        "FilesDue.v1": "data",
        "Tick.v1": "upkeep",
    }


def test_a_new_message_is_a_first_attempt_with_a_time_ordered_id() -> None:
    first, second = jobs(1), jobs(1)
    assert (first.attempt, first.created_at, first.trace) == (1, NOW, None)
    assert first.id.version == 7
    assert first.id != second.id


@pytest.mark.parametrize(
    "changed",
    [
        fields(priority=3),
        fields(body={"job_ids": [1], "state": "waiting"}),
        fields(body={"job_ids": []}),
        fields(body={"job_ids": list(range(1, MAX_IDS + 2))}),
        fields(body={"job_ids": [0]}),
        fields(body={"job_ids": ["one"]}),
        fields(body={"pilot_ids": [1]}),
        fields(body=[1]),
        fields(type="JobsLost"),
        fields(version=2),
        fields(version=0),
        fields(attempt=0),
        fields(id="1"),
        fields(created_at="2026-03-01T12:30:45"),
        fields(trace="00-abc-def-01"),
        {name: value for name, value in fields().items() if name != "attempt"},
    ],
    ids=[
        "unknown field", "unknown field of the body", "no ids", "too many ids", "id 0", "id no number", "wrong body",
        "body no object", "unknown type", "later version", "version 0", "attempt 0", "id no UUID", "time without zone",
        "malformed trace", "missing attempt",
    ],
)  # fmt: skip
def test_what_is_not_exactly_a_message_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(json.dumps(changed), BODIES)


def test_an_unknown_type_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'JobsLost'; known here: FilesDue, .*Tick"):
        decode(json.dumps(fields(type="JobsLost")), BODIES)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_garbage_is_refused_with_a_value_error(raw: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(raw, BODIES)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"id":', b"\x80\x04]q\x00."])
def test_hostile_bytes_are_refused_with_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(raw, BODIES)


def test_a_message_of_one_mebibyte_is_sent_and_a_byte_more_is_not() -> None:
    bare = len(Message.about(Letter(text=""), now=NOW).encode())
    full = Message.about(Letter(text="x" * (MAX_BYTES - bare)), now=NOW)
    assert decode(full.encode(), {"Letter": Letter}) == full
    with pytest.raises(ValueError, match=r"1048577 bytes is over the limit of 1048576; name fewer ids"):
        Message.about(Letter(text="x" * (MAX_BYTES - bare + 1)), now=NOW).encode()


@pytest.mark.parametrize("name", ["", "a/b", "a,b", "a.>", "*", "a b", "a:b", "é", "a" * 64])
def test_a_queue_whose_name_some_broker_reads_otherwise_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"Stray\.queue: '.*' is no name of a queue; use 1 to 63 letters"):
        type("Stray", (Body,), {"__module__": __name__, "__annotations__": {"queue": ClassVar[str]}, "queue": name})


def test_more_than_one_mebibyte_is_refused_unread() -> None:
    with pytest.raises(ValueError, match=r"1048577 bytes is over the limit"):
        decode(b"x" * (MAX_BYTES + 1), BODIES)


def test_a_message_with_the_most_ids_stays_far_below_the_limit() -> None:
    assert len(jobs(*range(2**63 - MAX_IDS, 2**63)).encode()) < MAX_BYTES / 10


def test_a_message_cannot_be_changed() -> None:
    message: Any = jobs(1)
    with pytest.raises(ValueError, match="frozen"):
        message.attempt = 2


def test_the_next_attempt_is_the_same_message() -> None:
    message = jobs(1, 2)
    again = message.again()
    assert (again.id, again.attempt, again.body) == (message.id, 2, message.body)
    assert message.again((1, 2)) == again


def test_the_next_attempt_at_a_part_is_a_message_of_its_own() -> None:
    message = jobs(1, 2, 3)
    part = message.again((2,))
    assert part.id != message.id
    assert (part.attempt, part.body) == (2, JobsReceived(job_ids=(2,)))
    assert part.created_at == message.created_at


@given(st.lists(st.integers(min_value=1, max_value=2**63 - 1), min_size=2, max_size=50))
def test_the_halves_of_a_message_name_its_ids_and_nothing_else_differs(ids: list[int]) -> None:
    message = jobs(*ids).again()
    halves = message.split()
    assert halves is not None
    left, right = halves
    assert left.body.ids() + right.body.ids() == tuple(ids)
    assert abs(len(left.body.ids()) - len(right.body.ids())) <= 1
    assert len({message.id, left.id, right.id}) == 3
    for half in halves:
        assert (half.attempt, half.type, half.created_at) == (2, message.type, message.created_at)
        assert decode(half.encode(), BODIES) == half


@pytest.mark.parametrize("name", ["SlotsOffered.v1", "ProvisioningDue.v1", "Tick.v1"])
def test_a_message_about_one_id_or_none_cannot_be_split(name: str) -> None:
    assert golden_message(name).split() is None


def test_a_body_without_ids_takes_none() -> None:
    with pytest.raises(ValueError, match="Tick names no ids"):
        EXPECTED["Tick.v1"].with_ids((1,))


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (1000, [1000]), (2001, [1000, 1000, 1])])
def test_many_ids_are_spread_over_messages(count: int, sizes: list[int]) -> None:
    messages = about_ids(JobsReceived, range(1, count + 1), now=NOW)
    assert [len(message.body.ids()) for message in messages] == sizes
    assert [number for message in messages for number in message.body.ids()] == list(range(1, count + 1))
