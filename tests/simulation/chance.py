"""Chance that is the same for all rule sets: the n-th pilot of a queue meets the same fate, whoever submits it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from tests.simulation.world import DAY, Queue


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one pilot."""

    normal: float
    """Standard normal, of its time in the batch queue."""
    life: float
    """Standard exponential, until its node crashes."""
    heartbeat: float
    """Part of a heartbeat's interval that goes by until it hears what it is told."""


class Chance:
    """Draws fates, each once."""

    def __init__(self, seed: int, queue: Queue) -> None:
        self._random = Random(f"{seed}/{queue.index}")
        self._fates: list[Fate] = []

    def of(self, number: int) -> Fate:
        """The fate of the n-th pilot."""
        while len(self._fates) <= number:
            draw = self._random
            self._fates.append(Fate(draw.gauss(0, 1), draw.expovariate(1), draw.random()))
        return self._fates[number]


def queue_time(queue: Queue, fate: Fate, now: float, ours: int) -> float:
    """Seconds from submission until the pilot's turn comes; `ours`: pilots that we have waiting there.

    Others take between none and all of the site, by the time of day, which makes the median half to one and a half
    of what it is on average; our own line makes it up to twice as long.
    """
    others = 1 + 0.5 * math.cos(2 * math.pi * (now - queue.phase) / DAY)
    crowd = 1 + min(ours / max(queue.slots, 1), 1.0)
    return queue.queue_time * others * crowd * math.exp(queue.spread * fate.normal)
