"""What matching reads, as values: what waits, where pilots are, what limits leave, what was used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from schemas.requirements import Requirement, Resource


@dataclass(frozen=True, slots=True)
class Level:
    """The waiting jobs of one autocluster that have one priority; `head_job_id` is the oldest of them.

    `waiting_since` is when that one began to wait; None where it was not asked for.
    """

    autocluster_id: int
    vo_id: int
    group_id: int
    owner_id: int
    job_type: str
    requirement_id: int
    requirement: Requirement
    priority: int
    head_job_id: int
    waiting_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a usable pilot is: it runs, does not drain, was heard of, and is not banned.

    `resource` has the node's totals and nature; `resource_key` is a number that equal resources share in this process.
    """

    pilot_id: int
    vo_id: int
    site_id: int
    queue_id: int
    resource: Resource
    resource_key: int
    only_job_type: str | None = None
    """In test mode, the one type of jobs that it takes."""
    reserved_for: int | None = None
    """The autocluster for which it is being emptied."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which jobs a limit is about; what is None does not narrow."""

    vo_id: int | None = None
    site_id: int | None = None
    group_id: int | None = None
    owner_id: int | None = None
    job_type: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit of running jobs: at most `maximum`, `running` of them taken."""

    id: int
    name: str
    selector: Selector
    maximum: int
    running: int


@dataclass(frozen=True, slots=True)
class StartRate:
    """Jobs that may start at a site now: `tokens` of a bucket that holds `jobs` and fills in `period` seconds."""

    site_id: int
    jobs: int
    period: float
    tokens: float
    at: datetime

    def left(self, now: datetime) -> int:
        """Whole tokens at a moment."""
        return int(self.filled(now))

    def filled(self, now: datetime) -> float:
        """Tokens at a moment, the next one as far as it is there."""
        gained = (now - self.at).total_seconds() * self.jobs / self.period
        return min(self.tokens + max(gained, 0.0), self.jobs)


@dataclass(frozen=True, slots=True)
class Account:
    """What an owner used: `usage` in core-seconds as they count now, faded by the half-life; the rest since ever.

    `charged` was promised to all jobs matched; `settled` is the part of it whose attempts ended, `used` what they took.
    """

    vo_id: int
    group_id: int
    owner_id: int
    usage: float
    charged: int
    settled: int
    used: int
