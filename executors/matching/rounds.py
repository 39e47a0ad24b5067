"""The pure part of matching: one round, which says what jobs go to which slots.

A slot is filled before the next one gets anything. Who is next is asked anew for every job: the group with the least
usage per share, in it the owner with the least, then that owner's best level (see `board`). Everything that is given
is charged, counted against limits and taken from the slot's room at once, so that the round cannot overshoot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from executors.matching.allowance import Allowance
from executors.matching.board import Board
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
    """How many nodes (running pilots) a VO has, and how many of them are reserved for wide jobs."""

    total: int
    reserved: int


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
    answered. `Board.settle` takes all three in after the commit.
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


def match(slots: Sequence[Slot], board: Board, terms: Terms, backlog: Backlog) -> Outcome:
    """At most `rules.most` matches of the levels on the board with the slots.

    The board is left as it was, so that a transaction that fails needs no mending.
    """
    raise NotImplementedError


def trimmed(matches: Sequence[Match], allowance: Allowance) -> list[Match]:
    """The matches that limits and start rates, read anew under locks, still leave room for, in order."""
    raise NotImplementedError


def wanted_by(slots: Sequence[Slot], level: Level, board: Board) -> bool:
    """Whether one of the slots could take a job of this level now, limits aside."""
    raise NotImplementedError


def suits(place: Place, level: Level, board: Board) -> bool:
    """Whether the place may run jobs of the level, free room and time aside; in test mode its type of jobs only."""
    raise NotImplementedError
