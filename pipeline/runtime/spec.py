"""What a consumer module declares, and what its executor is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points

from pipeline.errors import BadSettings
from pipeline.settings import LONGEST_DEADLINE, Settings
from pipeline.store.database import Database
from pipeline.tally import Tally
from schemas.messages import Body, Message
from schemas.outcomes import Backoff, Outcome


@dataclass(frozen=True, slots=True)
class Context:
    """What an executor works with, in the pool's process."""

    settings: Settings
    database: Database
    instance: str
    """The consumer's instance id, for leases and logs."""
    tally: Tally = field(default_factory=Tally)
    """What the executor counts, for the consumer's metrics."""


Execute = Callable[[Context, Sequence[Message]], Sequence[Outcome]]
"""Deals with a batch: one outcome per message, in order. It commits its own state, in one transaction
where it can, so that a batch which dies half way has changed nothing."""


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """Which executor serves a queue, and with what limits."""

    queue: str
    bodies: tuple[type[Body], ...]
    execute: Execute
    batch: int = 20
    """Messages per round at the most."""
    deadline: float = 60.0
    """Seconds that a batch may take; its worker is killed then."""
    memory: int = 1024
    """MiB of data (RLIMIT_DATA) that a worker may take."""
    recycle_after: int = 1000
    """Batches after which a worker is replaced."""
    backoff: Backoff = field(default_factory=Backoff)
    preload: tuple[str, ...] = ()
    """Modules that the pool's fork server imports once, ahead of its workers."""

    def catalogue(self) -> Mapping[str, type[Body]]:
        """The bodies by type name, as `decode` wants them."""
        return {body.type_name(): body for body in self.bodies}


def declared_queues() -> tuple[str, ...]:
    """The queues that have a consumer declared, by the names of the entry points; loads none of them."""
    return tuple(sorted(entry.name for entry in entry_points(group="penstock.consumers")))


def find_consumer(queue: str) -> ConsumerSpec:
    """The consumer of `queue`, by the entry point of that name; no other is loaded. Raises BadSettings."""
    found = {entry.name: entry for entry in entry_points(group="penstock.consumers")}
    if queue not in found:
        raise BadSettings(f"no consumer serves the queue {queue!r}; there are {', '.join(sorted(found))}")
    spec: ConsumerSpec = found[queue].load()
    if spec.queue != queue:
        raise BadSettings(f"the entry point {queue!r} of penstock.consumers gives a consumer of {spec.queue!r}")
    if spec.deadline > LONGEST_DEADLINE:
        raise BadSettings(
            f"the consumer of {queue!r} has a deadline of {spec.deadline:g} s; a batch may take {LONGEST_DEADLINE:g} s "
            "lest RabbitMQ take its messages away: make its `batch` smaller, or its messages about fewer ids"
        )
    return spec
