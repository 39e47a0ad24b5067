"""The values that pilots are planned from: what the store reads, and the pure plan takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.store.autoclusters import Owner
from pipeline.store.match_rows import LimitRow
from schemas.requirements import Requirement
from schemas.sites import PilotCaps, SiteQueueEntry
from schemas.states import PilotState

Place = tuple[int, int]
"""A site queue and a VO, by their ids."""

RECENT = 300.0
"""Seconds: a job that began within them has begun lately."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Waiting jobs of one VO and type with one requirement."""

    vo_id: int
    requirement: Requirement
    jobs: int
    job_type: str = "user"
    owner: Owner | None = None
    """Whom limits see; None: nobody in particular."""


@dataclass(frozen=True, slots=True)
class DemandReading:
    """What a demand source says. `is_sure` is True where the source knows that this is all there is: an answer that is
    empty or in part because something failed is never sure, and nothing is removed for it."""

    demand: tuple[Demand, ...]
    is_sure: bool


@dataclass(frozen=True, slots=True)
class Room:
    """One declared site queue for one of its VOs. `closed` says why nothing new may be requested there: it is banned,
    backs off, is stamped by a dead letter, or has but resting nodes to give; empty: it is open."""

    site_queue_id: int
    site_id: int
    site: str
    vo_id: int
    entry: SiteQueueEntry
    closed: str = ""
    only_job_type: str | None = None
    """In test mode, the one type of jobs that it takes."""
    share: float = 1.0
    """The VO's weight where several want the queue's pilots."""
    banned: bool = False
    """Its pilots get no jobs at all (closed says so, too)."""

    @property
    def place(self) -> Place:
        """Its key."""
        return self.site_queue_id, self.vo_id


@dataclass(frozen=True, slots=True)
class LivePilot:
    """A pilot that has not ended. For an active one, what of its offer no job takes. Times in seconds."""

    id: int
    site_queue_id: int
    vo_id: int
    state: PilotState
    leaves: bool
    """It drains, is to be removed, or is lost: nothing new may be counted on."""
    age: float = 0.0
    """Since it was requested."""
    batch_id: str | None = None
    """Pilots of one batch job of several nodes have this in common up to its last dot."""
    cores: int = 0
    memory: int = 0
    disk: int = 0
    gpus: int = 0
    lasts: float = 0.0
    jobs: int = 0
    """Jobs that occupy it."""
    recent_jobs: int = 0
    """Of these, the ones that began within the last `RECENT` seconds."""
    up: float = 0.0
    """Since it began to run."""
    idle_cycles: int = 0
    """Cycles of provisioning, one after the other, that found it active and without a job."""

    @property
    def place(self) -> Place:
        """Its key."""
        return self.site_queue_id, self.vo_id


@dataclass(frozen=True, slots=True)
class Past:
    """What the cycle before left behind for a place."""

    low_cycles: int = 0
    """Cycles, one after the other, whose sure demand was below what is there."""
    hold_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """How a site queue has done of late (the last hours): of the pilots that were requested in that time, how many were
    submitted, have begun to run, have ended without having begun and without our having removed them; the median of
    the seconds from request to start, None where none has started."""

    submitted: int = 0
    started: int = 0
    stillborn: int = 0
    queue_time: float | None = None
    moved: float | None = None
    """Seconds since a pilot last began to run there, or one that had run ended; None: none has."""
    vain: float = 0.0
    """The longest that a pilot which was taken back before it ran had waited since then. A queue that is full lets
    pilots wait in vain, whatever it did before."""


@dataclass(frozen=True, slots=True)
class Cap:
    """One limit of pilots over all places that it covers; None: over all queues, or all VOs."""

    label: str
    limits: PilotCaps
    queues: frozenset[int] | None = None
    vo_id: int | None = None

    def covers(self, place: Place) -> bool:
        """Whether pilots of this place count in it."""
        return (self.queues is None or place[0] in self.queues) and self.vo_id in {None, place[1]}


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan is made from. `caps` do not include the queues' own, which their entries say."""

    now: datetime
    reading: DemandReading
    rooms: tuple[Room, ...]
    pilots: tuple[LivePilot, ...]
    """Also those of queues that are declared no more."""
    past: Mapping[Place, Past]
    history: Mapping[int, History]
    """By site queue."""
    caps: tuple[Cap, ...] = ()
    limits: tuple[LimitRow, ...] = ()
    """Of running jobs: those of the sites, and of the VOs that want something."""
