"""The nemesis: which faults strike when, drawn from a seed, and how each is done to a broker and its consumers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from threading import Event

from tests.proxy import Proxy
from tests.servers import RedisServer, Server


class Kind(StrEnum):
    """What can happen."""

    KILL = "consumer killed"
    """kill -9, and another takes its place."""
    CUT = "connections cut"
    PAUSE = "broker paused"
    """SIGSTOP, SIGCONT: shorter than any time-out."""
    FREEZE = "broker frozen"
    """The same, longer than the time-out of a confirmation."""
    RESTART = "broker restarted"
    """SIGTERM."""
    CRASH = "broker killed"
    """kill -9."""
    FLUSH = "broker flushed"
    """It forgets everything."""


Kinds = Mapping[Kind, tuple[float, float]]
"""The faults that may happen, and how long each lasts, in seconds: from, to."""

INSTANT = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. It strikes on the way through its share of the work, when the next share has just been given out.

    So something is under way, and something is in the queue. There is one share more than there are faults.
    """

    kind: Kind
    share: float
    """How much of the whole work, from 0 to 1, has been given out before: as far as its share goes."""
    point: float
    """How much of it is done when it strikes."""
    ahead: float
    """How much of it has been given out by then."""
    seconds: float
    consumer: int
    """Which of the two consumers it hits, where it hits one."""


def draw(seed: int | str, kinds: Kinds, many: int) -> list[Fault]:
    """`many` faults in the order of their points, always the same for a seed; of each kind at least one."""
    assert many >= len(kinds), f"{many} faults can't be of {len(kinds)} kinds"
    dice = random.Random(seed)
    chosen = [*kinds, *dice.choices(list(kinds), k=many - len(kinds))]
    dice.shuffle(chosen)
    return [
        Fault(
            kind=kind,
            share=(position + 1) / (many + 1),
            point=(position + dice.uniform(0.1, 0.9)) / (many + 1),
            ahead=(position + 2) / (many + 1),
            seconds=dice.uniform(*kinds[kind]),
            consumer=dice.randrange(2),
        )
        for position, kind in enumerate(chosen)
    ]


@dataclass(frozen=True, slots=True)
class Nemesis:
    """Does harm to a broker, to the way to it, and to consumers."""

    server: Server
    proxy: Proxy
    kill_consumer: Callable[[int], None]
    """kill -9 for consumer 0 or 1, and another in its place."""
    diary: Path
    """The file where it notes what it did when, to be read beside the logs of those that it was done to."""

    @property
    def redis(self) -> RedisServer:
        """The broker, which must be a Redis."""
        assert isinstance(self.server, RedisServer)
        return self.server

    def strike(self, fault: Fault) -> None:
        """Let a fault happen; returns when it is over."""
        with self.diary.open("a") as diary:
            diary.write(f"{datetime.now(UTC):%FT%T.%fZ} {fault}\n")
        match fault.kind:
            case Kind.KILL:
                self.kill_consumer(fault.consumer)
            case Kind.CUT:
                self.proxy.cut()
            case Kind.PAUSE | Kind.FREEZE:
                self._pause(fault.seconds)
            case Kind.RESTART:
                self.server.restart()
            case Kind.CRASH:
                self.server.kill()
                self.server.start()
            case Kind.FLUSH:
                self.redis.flush()

    def _pause(self, seconds: float) -> None:
        self.server.suspend()
        try:
            Event().wait(seconds)  # that it lasts is the fault
        finally:
            self.server.resume()
