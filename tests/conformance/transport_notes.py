"""Messages that tests of transports send: numbered, on any queue; and what a consumer does about outages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import ClassVar, TypeVar

from pipeline.errors import BrokerUnavailable
from pipeline.transport.port import Delivery, Depth, Transport
from schemas.messages import Body, Message, decode
from tests.waiting import eventually

T = TypeVar("T")

Open = Callable[[str], Transport]
"""Opens a transport that is closed when the test ends."""


class Note(Body):
    """A body of the tests' own."""

    queue: ClassVar[str] = "optimisation"
    number: int
    text: str = ""


@cache
def note_of(queue: str) -> type[Note]:
    """The same on another queue."""
    return type("Note", (Note,), {"queue": queue, "__module__": __name__})


def note(queue: str, number: int, text: str = "") -> Message:
    """One message."""
    return Message.about(note_of(queue)(number=number, text=text), now=datetime.now(UTC))


def notes(queue: str, numbers: Sequence[int]) -> list[Message]:
    """A message for each number."""
    return [note(queue, number) for number in numbers]


def message_of(delivery: Delivery) -> Message:
    """What was published."""
    return decode(delivery.payload, {"Note": note_of(delivery.queue)})


def numbers_of(deliveries: Sequence[Delivery]) -> list[int]:
    """The numbers of what was received."""
    bodies = [message_of(delivery).body for delivery in deliveries]
    return [body.number for body in bodies if isinstance(body, Note)]


def again(call: Callable[[], T], *, within: float = 20.0) -> T:
    """What the call returns, made again for as long as the broker is away: what every process of ours does."""
    found: list[T] = []

    def succeeded() -> bool:
        try:
            found.append(call())
        except BrokerUnavailable:
            return False
        return True

    eventually(succeeded, within=within)
    return found[0]


def receive_all(transport: Transport, queue: str, wanted: int) -> list[Delivery]:
    """`wanted` messages, however many receives and connections they take."""
    found: list[Delivery] = []

    def enough() -> bool:
        try:
            received = transport.receive(queue, wanted - len(found), 0.5)
        except BrokerUnavailable:
            return False
        assert len(received) <= wanted - len(found)
        found.extend(received)
        return len(found) == wanted

    eventually(enough)
    return found


def drain(transport: Transport, queue: str, expected: set[int], *, soon: float) -> list[Delivery]:
    """Receives and acknowledges until everything expected has come, and then until nothing comes any more."""
    found: list[Delivery] = []
    missing = set(expected)
    trouble: list[str] = []

    def complete() -> bool:
        try:
            received = transport.receive(queue, 200, soon)
            found.extend(received)
            missing.difference_update(numbers_of(received))
            transport.acknowledge(received)
        except BrokerUnavailable as error:
            trouble.append(str(error))
            return False
        return not missing and not received

    try:
        eventually(complete, within=90.0)
    except AssertionError as late:
        late.add_note(
            f"{len(found)} came, {len(missing)} of {len(expected)} did not; {len(trouble)} calls failed: {trouble[-3:]}"
        )
        raise
    return found


def settled_depth(transport: Transport, queue: str, wanted: Callable[[Depth], bool]) -> Depth:
    """The depth once it is as wanted: some servers count a little later."""

    def check() -> Depth | None:
        depth = transport.depth([queue])[queue]
        return depth if wanted(depth) else None

    found = eventually(check, within=10.0)
    assert found is not None
    return found
