"""How full queues are behind STOMP, which itself tells nothing of it.

ActiveMQ tells by its statistics plugin (`<statisticsBrokerPlugin/>` in activemq.xml, and the xstream and jettison
jars that turn its answer into JSON): a message to `ActiveMQ.Statistics.Destination.NAME` is answered with the numbers
of that queue, or not at all where there is none; one to `ActiveMQ.Statistics.Broker` is answered always, and last.
RabbitMQ tells by its management API, where the URL names it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.transport.address import BrokerAddress
from pipeline.transport.port import Depth
from pipeline.transport.rabbit_management import RabbitManagement
from pipeline.transport.stomp_connection import OutgoingFrame, StompConnection

_REPLIES = "/temp-queue/penstock-statistics"
_ASKED = "/queue/ActiveMQ.Statistics."
_PATIENCE = 5.0
"""Seconds for an answer, which is here within milliseconds but for the first one of a server's life."""
_UNKNOWN = Depth(None, None, None)
_EMPTY = Depth(0, 0, None)


class Counts:
    """Asks whoever can tell."""

    def __init__(self, address: BrokerAddress) -> None:
        """Raises BadSettings when the option `management` is no URL."""
        url = address.options.get("management")
        self._management = RabbitManagement(url, address.vhost) if url is not None else None
        self._silent: StompConnection | None = None
        """Where nobody answered: asking again would cost the same wait."""

    def of(self, connection: StompConnection, queues: Sequence[str]) -> Mapping[str, Depth]:
        """What is known of each queue. Raises BrokerUnavailable."""
        if self._management is not None:
            counts = self._management.counts(queues)
            connection.check()
            return {queue: Depth(*counts[queue], None) if queue in counts else _UNKNOWN for queue in queues}
        if connection.is_activemq and connection is not self._silent:
            told = self._ask(connection, queues)
            if told is not None:
                return {queue: told.get(queue, _EMPTY) for queue in queues}
            self._silent = connection
        return dict.fromkeys(queues, _UNKNOWN)

    def close(self) -> None:
        """Give the connection to the management API up. May be called twice."""
        if self._management is not None:
            self._management.close()

    def _ask(self, connection: StompConnection, queues: Sequence[str]) -> Mapping[str, Depth] | None:
        """What ActiveMQ tells, without the queues that it doesn't have; None where it doesn't answer."""
        if not connection.is_subscribed(_REPLIES):
            asked = {"destination": _REPLIES, "ack": "auto", "transformation": "jms-map-json"}
            connection.subscribe(_REPLIES, [asked])
        connection.send([_question(name) for name in (*(f"Destination.{queue}" for queue in queues), "Broker")])
        told: dict[str, Depth] = {}
        deadline = time.monotonic() + _PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            for answer in connection.inbox.take(_REPLIES, 1, left):
                numbers = _numbers(answer.payload)
                if "destinationName" not in numbers:
                    return told if "brokerName" in numbers else None
                told[numbers["destinationName"].removeprefix("queue://")] = _depth(numbers)
        return None


def _question(name: str) -> OutgoingFrame:
    """It expires, since it is an ordinary message to a server without the plugin."""
    expires = str(round((time.time() + 60) * 1000))
    headers = {"destination": _ASKED + name, "reply-to": _REPLIES, "persistent": "false", "expires": expires}
    return "SEND", headers, b""


def _depth(numbers: Mapping[str, Any]) -> Depth:
    """ActiveMQ's size is everything that has not been acknowledged."""
    in_flight = int(numbers["inflightCount"])
    return Depth(max(0, int(numbers["size"]) - in_flight), in_flight, None)


def _numbers(payload: bytes) -> Mapping[str, Any]:
    """Name and value of each entry; nothing where the answer is in no form that we know.

    {"map": {"entry": [{"string": "size", "long": 3}, {"string": ["brokerName", "main"]}, ...]}}
    """
    try:
        entries = json.loads(payload)["map"]["entry"]
    except (ValueError, LookupError, TypeError):
        return {}
    pairs = (entry["string"] if isinstance(entry["string"], list) else list(entry.values()) for entry in entries)
    return dict(pairs)
