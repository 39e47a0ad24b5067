"""A number as a message, on a queue of the run's own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

from pydantic import create_model

from pipeline.transport.port import Delivery
from schemas.messages import Body, Message, decode


class Number(Body):
    """A number; subclasses say on which queue."""

    queue: ClassVar[str]
    number: int


class NumberQueue:
    """The queue of this name, which carries numbers and nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._body = create_model("Number", __base__=Number)
        self._body.queue = name

    def message(self, number: int) -> Message:
        """A new message about a number."""
        return Message.about(self._body(number=number), now=datetime.now(UTC))

    def number(self, delivery: Delivery) -> int:
        """The number of a message. Raises ValueError when it is damaged, or none of ours."""
        body = decode(delivery.payload, {"Number": self._body}).body
        assert isinstance(body, Number)
        return body.number
