"""What is free of a node, and what one attempt is granted of it."""

from __future__ import annotations

from dataclasses import dataclass

_DIGITS = 3
"""Binary digits that a coarse room keeps: it has a quarter more at the most."""


@dataclass(frozen=True, slots=True)
class Room:
    """Cores, MiB of memory and of disk, GPUs."""

    cores: int
    memory: int
    disk: int
    gpus: int = 0

    def less(self, grant: Grant, count: int = 1) -> Room:
        """What is left when `count` such grants are taken."""
        return Room(
            self.cores - count * grant.cores,
            self.memory - count * grant.memory,
            self.disk - count * grant.disk,
            self.gpus - count * grant.gpus,
        )

    def times(self, grant: Grant) -> int:
        """How often such a grant can be taken."""
        pairs = (
            (self.cores, grant.cores),
            (self.memory, grant.memory),
            (self.disk, grant.disk),
            (self.gpus, grant.gpus),
        )
        return min(has // takes for has, takes in pairs if takes > 0)

    def coarse(self) -> Room:
        """At least as much, the same for rooms of about one size: memory and disk by their first binary digits."""
        return Room(self.cores, rounded_up(self.memory), rounded_up(self.disk), self.gpus)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one attempt takes: cores, MiB of memory (requested) and of disk, GPUs, and for how many seconds at most."""

    cores: int
    memory: int
    disk: int
    gpus: int
    seconds: float

    @property
    def charge(self) -> int:
        """Core-seconds that its share is charged when it is matched."""
        return round(self.cores * self.seconds)


def rounded_up(amount: int) -> int:
    """An amount by its first binary digits, and not less."""
    dropped = max(amount.bit_length() - _DIGITS, 0)
    return -(-amount >> dropped) << dropped
