"""What a round of matching is given, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import ceil
from typing import Protocol

from executors.matching.allowance import Allowance
from executors.matching.fair_share import Shares
from pipeline.store.jobs import JobRow
from pipeline.store.match_rows import Level, Place
from schemas.rooms import Grant, Room


class Backlog(Protocol):
    """What waits, as far as it is not known yet.

    More may be taken of a level than is matched at the end: jobs are had in growing portions. Those matched are
    always the first of those taken, so a hint is the key of the last job *matched*.
    """

    def take(self, level: Level, most: int) -> Sequence[JobRow]:
        """Up to so many more jobs of a level, the oldest first; fewer mean that the level has no more to be had."""
        ...

    def after(self, level: Level) -> Level | None:
        """The next lower level of the same autocluster, asked for when this one is drained and the board has none."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """A pilot with what is free of it; `time_left` is seconds."""

    place: Place
    free: Room
    time_left: float


@dataclass(frozen=True, slots=True)
class Match:
    """One job and the place that gets it; `alternative` is the index of the specification that it is granted by."""

    job: JobRow
    level: Level
    place: Place
    grant: Grant
    alternative: int


@dataclass(frozen=True, slots=True)
class Nodes:
    """How many nodes (running pilots) a VO has, and how many of them are kept for wide jobs."""

    total: int
    kept: Mapping[int, int] = field(default_factory=dict)
    """By autocluster."""
    sated: frozenset[int] = frozenset()
    """Autoclusters that have a node kept for each of their jobs, as far as that was asked."""

    def may_keep(self, autocluster_id: int, part: float) -> bool:
        """Whether one more may be kept for it, of so great a part of the nodes; no autocluster has most of them."""
        most = max(1, int(self.total * part)) if part > 0 else 0
        return (
            sum(self.kept.values()) < most
            and self.kept.get(autocluster_id, 0) < ceil(most / 2)
            and autocluster_id not in self.sated
        )

    def moved(self, before: int | None, now: int | None) -> Nodes:
        """As they are when a node is kept for another autocluster than before, or for none."""
        kept = dict(self.kept)
        for autocluster_id, change in ((before, -1), (now, 1)):
            if autocluster_id is not None:
                kept[autocluster_id] = max(kept.get(autocluster_id, 0) + change, 0)
        return replace(self, kept=kept)


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings of the same names; `most` is how many matches one round makes."""

    wide_patience: float = 1_800.0
    wide_reserve: float = 0.1
    longest_wait: float = 86_400.0
    most: int = 2_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the round says.

    `heads` are levels whose oldest jobs were matched, as they are now (their `head_job_id` may be a lower bound);
    `drained` are (autocluster, priority) of levels that nothing more can be had of; `lower` what `Backlog.after`
    answered. The board is so already.
    """

    matches: tuple[Match, ...] = ()
    heads: tuple[Level, ...] = ()
    drained: frozenset[tuple[int, int]] = frozenset()
    lower: tuple[Level, ...] = ()
    is_cut_short: bool = False
    """Whether `most` ended it: the slots that got nothing may still be worth a round."""
    reservations: Mapping[int, int | None] = field(default_factory=dict)
    """Pilots whose `reserved_for` shall change: to an autocluster, or to nothing."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a round keeps to. `shares` and `allowance` are used up by it: make new ones for each round."""

    shares: Shares
    allowance: Allowance
    nodes: Mapping[int, Nodes]
    """By VO; nothing is reserved for a VO that is not named."""
    rules: Rules
    now: datetime
