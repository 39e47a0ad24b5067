"""The transport port: what every broker must do, and how an implementation is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol
from urllib.parse import urlsplit

from pipeline.errors import BadSettings
from schemas.messages import Message


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Where brokers differ; read by callers instead of the implementation's type."""

    name: str
    durable: bool
    """Whether a confirmed message survives the broker's restart."""
    reports_age: bool
    """Whether `depth` can tell the age of the oldest message."""
    fetches_ahead: bool = False
    """Whether a consumer holds messages beyond those that it has received, which `depth` counts as in flight.

    It gives them back when `receive` has not been called for some seconds.
    """


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as received: still raw, since whoever receives it must outlive a message that is garbage."""

    queue: str
    payload: bytes
    redelivered: bool
    """Whether it may have been received before, by a consumer that died or gave up."""
    receipt: Any = field(repr=False)
    """What the transport needs to acknowledge it."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How full a queue is; None where the server does not tell."""

    ready: int | None
    in_flight: int | None
    oldest_age: float | None
    """Seconds since the oldest ready message was published; None also where there is none."""


class Transport(Protocol):
    """A connection to a broker, for one thread at a time. Every call may raise BrokerUnavailable, and no driver error.

    After BrokerUnavailable the same object may be called again: it reconnects by itself.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def publish(self, messages: Sequence[Message]) -> None:
        """Return only when the broker has confirmed every message; each goes to its body's queue."""

    def receive(self, queue: str, most: int, wait: float) -> list[Delivery]:
        """Up to `most` messages; waits up to `wait` seconds for a first one."""

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """They are dealt with; an acknowledgement that comes too late is dropped in silence."""

    def depth(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """How full each queue is; a queue that never had a message is empty."""

    def purge(self, queue: str) -> int:
        """Throw away the ready messages; returns how many."""

    def close(self) -> None:
        """Give the connection up; unacknowledged messages go to others. May be called twice."""


Opener = Callable[[str, str], Transport]


def open_transport(url: str, consumer: str) -> Transport:
    """The transport for `url`, by its scheme; `consumer` names the caller uniquely (its instance).

    It connects at its first call, so a broker that is away does not keep a process from starting. Raises BadSettings
    for a scheme that nothing serves, and for a URL that is wrong.
    """
    scheme = urlsplit(url).scheme
    found = {entry.name: entry for entry in entry_points(group="penstock.transports")}
    if scheme not in found:
        raise BadSettings(f"PENSTOCK_BROKER_URL: no transport serves {scheme!r}; there are {', '.join(sorted(found))}")
    opener: Opener = found[scheme].load()
    return opener(url, consumer)
