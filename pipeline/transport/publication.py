"""What is published: payloads with their queues, in rounds that are confirmed together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from schemas.messages import Message

Addressed = tuple[str, bytes]
"""A queue, and what goes there."""


def rounds(messages: Iterable[Message], *, most: int, most_bytes: int) -> Iterator[list[Addressed]]:
    """The encoded messages in order, up to `most` at a time and about `most_bytes`: a round is in memory as a whole."""
    part: list[Addressed] = []
    size = 0
    for message in messages:
        payload = message.encode()
        part.append((message.queue, payload))
        size += len(payload)
        if len(part) == most or size > most_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part
