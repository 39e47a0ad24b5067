"""Where a queue is, in STOMP's words, and what is asked of it.

`/queue/NAME` makes the queue where there is none. RabbitMQ refuses that when the queue exists with other
properties, as a quorum queue which an AMQP client made; then `/amq/queue/NAME` is the way in, which makes nothing.
"""

from __future__ import annotations

import re

_NAMED = re.compile(r"queue '([^']+)'")
_OF_ANOTHER_KIND = ("inequivalent arg", "PRECONDITION_FAILED")
_GONE = ("NOT_FOUND", "no queue '")

_LASTING = {"durable": "true", "auto-delete": "false"}
"""RabbitMQ: a classic queue that survives a restart. ActiveMQ takes no notice."""


class Destinations:
    """The destination of each queue, as far as it is known."""

    def __init__(self) -> None:
        self._made_by_others: set[str] = set()

    def of(self, queue: str) -> str:
        """The value of the header."""
        return f"/amq/queue/{queue}" if queue in self._made_by_others else f"/queue/{queue}"

    def sending(self, queue: str) -> dict[str, str]:
        """The headers of a SEND. Only with a length, which stomp.py fills in, is a body bytes to ActiveMQ."""
        body = {"content-type": "application/json", "content-length": "0"}
        return {"destination": self.of(queue), "persistent": "true", **body, **_LASTING}

    def subscribing(self, queue: str, prefetch: int) -> dict[str, str]:
        """The headers of a SUBSCRIBE that may hold `prefetch` unacknowledged messages."""
        window = {"prefetch-count": str(prefetch), "activemq.prefetchSize": str(prefetch)}
        return {"destination": self.of(queue), "ack": "client-individual", **window, **_LASTING}

    def learn(self, refusal: str) -> bool:
        """Whether the server's ERROR told something that makes another try worth while."""
        named = _NAMED.search(refusal)
        if named is None:
            return False
        if any(word in refusal for word in _OF_ANOTHER_KIND):
            known = named[1] in self._made_by_others
            self._made_by_others.add(named[1])
            return not known
        if any(word in refusal for word in _GONE) and named[1] in self._made_by_others:
            self._made_by_others.remove(named[1])
            return True
        return False
