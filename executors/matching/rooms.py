"""What jobs need, roughly: so that one look tells of many that there is no room for them."""

from __future__ import annotations

from typing import NamedTuple

from schemas.rooms import Room
from schemas.specifications import Needs

_DIGITS = 2
"""Binary digits that are kept of memory, disk and time."""


class Shape(NamedTuple):
    """The least that jobs of about the same needs want. memory, disk: MiB; wall_time: seconds.

    A tuple, since it is looked up many times per match.
    """

    cores: int
    memory: int
    disk: int
    gpus: int
    wall_time: int

    def may_fit(self, room: Room, time_left: float) -> bool:
        """False if none of them fits."""
        return (
            self.cores <= room.cores
            and self.wall_time <= time_left
            and self.memory <= room.memory
            and self.disk <= room.disk
            and self.gpus <= room.gpus
        )


def shape_of(needs: Needs) -> Shape:
    """Cores and GPUs as they are, the rest rounded down: queues know a dozen shapes, not thousands."""
    return Shape(
        needs.min_cores,
        _rounded(needs.memory(needs.min_cores)),
        _rounded(needs.disk),
        needs.min_gpus,
        _rounded(needs.wall_time),
    )


def _rounded(amount: int) -> int:
    dropped = max(amount.bit_length() - _DIGITS, 0)
    return amount >> dropped << dropped
