"""What is free of a node, and what one attempt is granted of it."""

from __future__ import annotations

from dataclasses import dataclass


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
