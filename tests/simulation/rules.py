"""What a rule set is told in each of its cycles, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.simulation.pilot import Pilot
from tests.simulation.world import Case, Group


@dataclass(frozen=True, slots=True)
class View:
    """What everybody knows at `now`, without delay."""

    now: float
    waiting: Mapping[Group, int]
    """Jobs by group; groups without any are left out. Empty while the query fails: see `is_sure`."""
    waiting_long: Mapping[Group, int]
    """Those of them that have waited for more than ten minutes."""
    is_sure: bool
    """False: the query failed, and who asks can tell so."""
    pilots: Sequence[Pilot]
    """All that have not ended."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now: new pilots by queue index, pilots to take back that have not come up, active ones to drain."""

    submit: Mapping[int, int] = field(default_factory=dict)
    remove: Sequence[Pilot] = ()
    drain: Sequence[Pilot] = ()
    retry: Sequence[Pilot] = ()
    """Requested ones to be submitted now."""


class Rules:
    """One rule set, made anew for each simulation. What it need not hear of, it leaves as it is here."""

    name: str
    """As figures call it."""
    period: float
    """Seconds between its cycles."""
    margin: float
    """Seconds by which its pilots' lives are shorter than the wall time."""
    idle_limit: float
    """Seconds after which a pilot ends itself that has not had a job."""
    tail_limit: float
    """Seconds without a job after which one ends itself that has had some."""
    least_life: float = 0.0
    """A pilot that starts with less than so many seconds to live ends at once."""
    keeps_requested: bool = False
    """Whether pilots that a batch system refuses stay requested, for a later `retry`."""

    def decide(self, view: View) -> Decision:
        """One cycle; each has its own."""
        raise NotImplementedError

    def submission_failed(self, queue: int, now: float) -> None:
        """The batch system of this queue refused what was to be submitted."""

    def requested(self, pilot: Pilot) -> None:
        """A pilot is wanted, and submitted or refused."""

    def came_up(self, pilot: Pilot, now: float) -> None:
        """A pilot takes jobs from now on."""

    def ended(self, pilot: Pilot, now: float, *, by_us: bool) -> None:
        """A pilot has gone; `by_us`: this rule set took it back or had it drained."""


class RulesFactory(Protocol):
    """Makes a rule set for a case."""

    def __call__(self, case: Case) -> Rules:
        """Without any past."""
        ...
