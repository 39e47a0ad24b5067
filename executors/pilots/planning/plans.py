"""What a plan is made by, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipeline.store.provisioning_rows import Room


@dataclass(frozen=True, slots=True)
class PlanRules:
    """The numbers of the rules. Times are seconds."""

    margin: float = 300.0
    """By which a pilot's life is shorter than its wall time."""
    cycle: float = 20.0
    """From one cycle to the next."""
    probes: int = 10
    """Batch jobs that a queue gets of which nothing is known."""
    growth: int = 4
    """Pilots that may be pending for each one that has begun to run of late."""
    patience: float = 600.0
    """What a pilot is expected to wait where none has started yet."""
    sure_until: float = 2.0
    """Times the usual queue time until which a pending pilot surely comes."""
    unsure_after: float = 5.0
    """Times the usual queue time from which it is not counted on at all."""
    full_after: float = 5.0
    """Times the usual queue time that pilots have waited in vain in a queue that is full."""
    near: float = 3_600.0
    """Seconds. A queue in which pilots wait for so long counts half as much as one with the same room where they start
    at once: between minutes and hours the wait decides, between minutes and minutes the room."""
    least_wait: float = 60.0
    """Even the fastest queue takes so long from the request until its pilot asks for jobs."""
    longest_hold: float = 3_600.0
    """Until a dead queue is tried again; it doubles from `first_hold` with each pilot that died early."""
    first_hold: float = 60.0
    foresight: float = 0.5
    """Part of the cores that will get free before a new pilot could come that is counted on."""
    horizon: float = 900.0
    """So far ahead free cores and new jobs are foreseen, at the most."""
    hedge: float = 2.5
    """Times that jobs without a free slot count where pilots usually wait for two minutes and more."""
    low_cycles: int = 2
    """Low readings, one after the other, from which on surplus goes."""
    idle_cycles: int = 2
    """Cycles that a pilot has stood idle, one after the other, before it may be drained."""
    removals: float = 2.0
    """How often in the usual queue time half of the surplus of pending pilots goes, while the VO has jobs."""
    long_cycles: int = 30
    """Low readings from which on busy pilots drain, too, where the queue's mode is `all`."""


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """What is to be done for one VO at one site queue."""

    room: Room
    wanted: int
    """Pilots that the demand wants there, those that run jobs included."""
    request: int = 0
    remove: tuple[int, ...] = ()
    """Pending pilots, by id."""
    drain: tuple[int, ...] = ()
    """Active pilots, whose jobs end first, by id."""
    low_cycles: int = 0
    hold_until: datetime | None = None
    why: str = ""
    """One line for people."""
    waiting_jobs: int = 0
    """Jobs that wait and could run there."""
    waiting_cores: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """An order for each room, in their order, and the pending pilots of places that are declared no more: they go at
    once."""

    orders: tuple[PlaceOrder, ...]
    strays: tuple[int, ...] = ()
