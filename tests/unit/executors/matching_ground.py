"""Waiting jobs, slots and rounds as values, for the tests of matching."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from executors.matching.allowance import Allowance
from executors.matching.board import Board
from executors.matching.eligibility import Eligibility
from executors.matching.fair_share import Entitlements, Shares
from executors.matching.rounds import Match, Nodes, Outcome, Rules, Slot, Terms, match
from pipeline.store.jobs import JobRow
from pipeline.store.match_rows import Account, Level, LimitRow, Place, StartRate
from schemas.requirements import Requirement, Resource, room_of
from schemas.rooms import Room
from schemas.states import JobState

NOW = datetime(2026, 6, 1, tzinfo=UTC)
VO = 1
APART = 1_000_000
"""Ids of jobs between two levels."""


def job_row(job_id: int, level: Level) -> JobRow:
    """A waiting job of a level."""
    return JobRow(
        id=job_id,
        vo_id=level.vo_id,
        campaign_id=1,
        step_id=1,
        spec_id=1,
        array_index=0,
        state=JobState.WAITING,
        attempt=0,
        priority=level.priority,
        pilot_id=None,
        site_id=None,
        autocluster_id=level.autocluster_id,
        kill_requested=False,
        absences=0,
        infrastructure_losses=0,
        payload_failures=0,
    )


def level_of(
    number: int,
    requirement: Requirement,
    *,
    group: int = 1,
    owner: int = 1,
    priority: int = 0,
    head: int | None = None,
    job_type: str = "user",
    waited: float = 0.0,
) -> Level:
    """The level of autocluster `number`, whose oldest job has waited so many seconds."""
    return Level(
        autocluster_id=number,
        vo_id=VO,
        group_id=group,
        owner_id=owner,
        job_type=job_type,
        requirement_id=number,
        requirement=requirement,
        priority=priority,
        head_job_id=number * APART if head is None else head,
        waiting_since=NOW - timedelta(seconds=waited),
    )


class Queue:
    """What waits: a Backlog that keeps books. Only what was matched is gone after a round."""

    def __init__(self, waiting: Mapping[Level, int]) -> None:
        self.jobs = {
            (level.autocluster_id, level.priority): [level.head_job_id + n for n in range(many)]
            for level, many in waiting.items()
        }
        self.levels = {(level.autocluster_id, level.priority): level for level in waiting}
        self._taken: dict[tuple[int, int], int] = {}

    def take(self, level: Level, most: int) -> Sequence[JobRow]:
        key = level.autocluster_id, level.priority
        begin = self._taken.get(key, 0)
        ids = self.jobs[key][begin : begin + most]
        self._taken[key] = begin + len(ids)
        return [job_row(job_id, level) for job_id in ids]

    def after(self, level: Level) -> Level | None:
        lower = [
            other
            for key, other in self.levels.items()
            if self.jobs[key] and key[0] == level.autocluster_id and key[1] < level.priority
        ]
        return max(lower, key=lambda other: other.priority, default=None)

    def commit(self, matches: Iterable[Match]) -> None:
        """The matched jobs wait no more; they must have been the first of their levels."""
        gone: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for found in matches:
            gone[found.level.autocluster_id, found.level.priority].append(found.job.id)
        for key, ids in gone.items():
            assert self.jobs[key][: len(ids)] == ids
            del self.jobs[key][: len(ids)]
        self._taken.clear()


def slot_of(
    pilot_id: int,
    cores: int = 8,
    *,
    site: int = 1,
    free: Room | None = None,
    time_left: float = 1e6,
    resource: Resource | None = None,
    only_job_type: str | None = None,
    reserved_for: int | None = None,
) -> Slot:
    """A slot of a node with plenty of memory and disk, all of it free unless it is said."""
    if resource is None:
        resource = Resource(site=f"S{site}", cores=cores, memory=cores * 2_000, disk=cores * 10_000, wall_time=10**6)
    place = Place(pilot_id, VO, site, site, resource, hash(resource), only_job_type, reserved_for)
    return Slot(place, room_of(resource) if free is None else free, time_left)


@dataclass
class Farm:
    """Rounds one after the other, with what they leave behind."""

    queue: Queue
    entitlements: Entitlements = field(default_factory=Entitlements)
    limits: Sequence[LimitRow] = ()
    rates: Sequence[StartRate] = ()
    rules: Rules = field(default_factory=Rules)
    nodes: Nodes = field(default_factory=lambda: Nodes(10))
    used: dict[tuple[int, int], float] = field(default_factory=dict)
    """Core-seconds by group and owner."""

    def __post_init__(self) -> None:
        self.board = Board(Eligibility())
        self.board.replace_all(level for key, level in self.queue.levels.items() if self.queue.jobs[key])

    def round(self, slots: Sequence[Slot]) -> Outcome:
        """One round, and what it did taken in."""
        accounts = [Account(VO, *key, usage=usage, charged=0, settled=0, used=0) for key, usage in self.used.items()]
        terms = Terms(
            Shares({VO: self.entitlements}, accounts),
            Allowance(self.limits, self.rates, NOW),
            {VO: self.nodes},
            self.rules,
            NOW,
        )
        outcome = match(slots, self.board, terms, self.queue)
        self.queue.commit(outcome.matches)
        for found in outcome.matches:
            key = found.level.group_id, found.level.owner_id
            self.used[key] = self.used.get(key, 0.0) + found.grant.charge
        return outcome
