"""The pure part of matching: requirements and free room are respected, in order of priority."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from executors.matching.decide import Match, Slot, match, rank, suits, trimmed, wanted_by
from pipeline.store.jobs import JobRow
from pipeline.store.matching import Level, Place, Room
from schemas.requirements import Requirement, Resource, fits
from schemas.states import JobState

SITES = ("A", "B")
TAGS = ("gpu", "avx")
MOST = 40


def _job(job_id: int, level: Level) -> JobRow:
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


class Backlog:
    """What waits; hands jobs out as the store does, and knows the next lower level of an autocluster."""

    def __init__(self, waiting: dict[Level, int]) -> None:
        self.left = {
            level: [_job(level.head_job_id + n, level) for n in range(many)] for level, many in waiting.items()
        }

    def take(self, level: Level, most: int) -> Sequence[JobRow]:
        taken, self.left[level] = self.left[level][:most], self.left[level][most:]
        return taken

    def after(self, level: Level) -> Level | None:
        lower = [
            other
            for other, jobs in self.left.items()
            if jobs and other.autocluster_id == level.autocluster_id and other.priority < level.priority
        ]
        return max(lower, key=lambda other: other.priority, default=None)

    def heads(self) -> list[Level]:
        """The highest level of each autocluster."""
        highest: dict[int, Level] = {}
        for level, jobs in self.left.items():
            known = highest.get(level.autocluster_id)
            if jobs and (known is None or level.priority > known.priority):
                highest[level.autocluster_id] = level
        return list(highest.values())


def _mostly(usual: object, *others: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual, usual, usual, *others])


requirements = st.builds(
    Requirement,
    cores=_mostly(1, 2, 4, 8),
    memory=_mostly(1_000, 1, 7_000),
    disk=_mostly(10, 900),
    wall_time=_mostly(60, 1, 100),
    tags=_mostly((), ("gpu",)),
    sites=_mostly((), ("A",)),
    banned_sites=_mostly((), ("B",)),
)


@st.composite
def backlogs(draw: st.DrawFn) -> dict[Level, int]:
    """Levels with how many jobs each has; ids do not overlap."""
    found = {}
    for number in range(draw(st.integers(1, 5))):
        wants = draw(requirements)
        vo_id = draw(_mostly(1, 2))
        for priority in draw(st.sets(st.integers(-2, 2), min_size=1, max_size=3)):
            head = draw(st.integers(0, 99)) * 10_000 + number * 1_000 + priority * 100 + 501
            found[Level(number + 1, vo_id, priority, head, wants.signature(), wants)] = draw(st.integers(0, 12))
    return found


@st.composite
def slot_lists(draw: st.DrawFn) -> list[Slot]:
    """Slots on two sites; some are over-committed already."""
    found = []
    for pilot_id in range(1, draw(st.integers(1, 5)) + 1):
        site_id = draw(st.integers(0, 1))
        place = Place(pilot_id, draw(_mostly(1, 2)), site_id, SITES[site_id], draw(_mostly(TAGS, (), ("gpu",))))
        free = Room(draw(_mostly(8, -1, 0, 3, 16)), draw(_mostly(16_000, -1, 2_500)), draw(_mostly(900, -1, 45)))
        found.append(Slot(place, free, draw(_mostly(120, 0, 60))))
    return found


site_rooms = st.dictionaries(st.integers(0, 1), st.integers(0, 10))


def _matches(slots: Sequence[Slot], waiting: dict[Level, int], rooms: dict[int, int]) -> list[tuple[Match, Level]]:
    of_cluster = {level.autocluster_id: level for level in waiting}
    backlog = Backlog(waiting)
    outcome = match(slots, backlog.heads(), rooms, backlog, MOST)
    return [(found, of_cluster[found.job.autocluster_id or 0]) for found in outcome.matches]


@given(slot_lists(), backlogs(), site_rooms)
def test_every_match_meets_its_requirement_within_its_vo(
    slots: list[Slot], waiting: dict[Level, int], rooms: dict[int, int]
) -> None:
    by_pilot = {slot.place.pilot_id: slot for slot in slots}
    for found, level in _matches(slots, waiting, rooms):
        slot = by_pilot[found.place.pilot_id]
        resource = Resource(
            site=slot.place.site,
            tags=slot.place.tags,
            cores=slot.free.cores,
            memory=slot.free.memory,
            disk=slot.free.disk,
            wall_time=int(slot.time_left),
        )
        assert fits(level.requirement, resource)
        assert found.job.vo_id == slot.place.vo_id


@given(slot_lists(), backlogs(), site_rooms)
def test_free_room_and_limits_are_never_exceeded_and_no_job_goes_twice(
    slots: list[Slot], waiting: dict[Level, int], rooms: dict[int, int]
) -> None:
    used: defaultdict[int, Counter[str]] = defaultdict(Counter)
    at_site: Counter[int] = Counter()
    found = _matches(slots, waiting, rooms)
    for one, level in found:
        wants = level.requirement
        used[one.place.pilot_id].update(cores=wants.cores, memory=wants.memory, disk=wants.disk)
        at_site[one.place.site_id] += 1
    for slot in slots:
        for word, amount in used[slot.place.pilot_id].items():
            assert amount <= getattr(slot.free, word)
    assert all(at_site[site_id] <= room for site_id, room in rooms.items())
    assert len({one.job.id for one, _ in found}) == len(found) <= MOST


@given(slot_lists(), backlogs(), site_rooms)
def test_nothing_is_left_that_still_fits(slots: list[Slot], waiting: dict[Level, int], rooms: dict[int, int]) -> None:
    backlog = Backlog(waiting)
    outcome = match(slots, backlog.heads(), rooms, backlog, MOST)
    if outcome.is_cut_short:
        return
    used: defaultdict[int, list[Requirement]] = defaultdict(list)
    of_cluster = {level.autocluster_id: level.requirement for level in waiting}
    left = dict(rooms)
    for found in outcome.matches:
        used[found.place.pilot_id].append(of_cluster[found.job.autocluster_id or 0])
        if found.place.site_id in left:
            left[found.place.site_id] -= 1
    for slot in slots:
        mine = used[slot.place.pilot_id]
        free = Room(
            slot.free.cores - sum(wants.cores for wants in mine),
            slot.free.memory - sum(wants.memory for wants in mine),
            slot.free.disk - sum(wants.disk for wants in mine),
        )
        if left.get(slot.place.site_id, 1) > 0:
            rest = Slot(slot.place, free, slot.time_left)
            assert not any(wanted_by([rest], level) for level, jobs in backlog.left.items() if jobs)


@given(slot_lists(), requirements, st.lists(st.integers(-9, 9), min_size=1, max_size=6, unique=True), site_rooms)
def test_among_equal_requirements_higher_priority_goes_first_then_age(
    slots: list[Slot], wants: Requirement, priorities: list[int], rooms: dict[int, int]
) -> None:
    waiting = {
        Level(number // 2 + 1, 1, priority, (len(priorities) - number) * 100, wants.signature(), wants): 3
        for number, priority in enumerate(priorities)
    }
    ranks = [(-found.job.priority, found.job.id) for found, _ in _matches(slots, waiting, rooms)]
    assert ranks == sorted(ranks)
    everything = sorted((-level.priority, level.head_job_id + n) for level in waiting for n in range(3))
    assert ranks == everything[: len(ranks)]


@given(slot_lists(), backlogs(), st.dictionaries(st.integers(0, 1), st.integers(0, 5)))
def test_what_is_trimmed_keeps_to_the_limits_and_to_the_order(
    slots: list[Slot], waiting: dict[Level, int], rooms: dict[int, int]
) -> None:
    everything = [found for found, _ in _matches(slots, waiting, {})]
    kept = trimmed(everything, rooms)
    at_site = Counter(found.place.site_id for found in kept)
    wanted = Counter(found.place.site_id for found in everything)
    assert all(at_site[site_id] == min(wanted[site_id], rooms.get(site_id, MOST)) for site_id in wanted)
    assert [found for found in everything if found in kept] == kept


def test_wide_jobs_come_before_narrow_ones_of_their_priority() -> None:
    narrow, wide = Requirement(cores=1), Requirement(cores=8)
    levels = [
        Level(1, 1, 0, 1, narrow.signature(), narrow),
        Level(2, 1, 0, 9, wide.signature(), wide),
        Level(3, 1, 1, 99, narrow.signature(), narrow),
    ]
    assert [level.autocluster_id for level in sorted(levels, key=rank)] == [3, 2, 1]


def test_a_drained_autocluster_is_told_from_one_with_jobs_left() -> None:
    wants = Requirement()
    waiting = {Level(1, 1, 0, 1, wants.signature(), wants): 2, Level(2, 1, 0, 101, wants.signature(), wants): 9}
    slot = Slot(Place(1, 1, 1, "A", ()), Room(4, 9_999, 9_999), 9_999)
    backlog = Backlog(waiting)
    outcome = match([slot], backlog.heads(), {}, backlog, MOST)
    assert outcome.drained == {1}
    assert [found.job.id for found in outcome.matches] == [1, 2, 101, 102]
    assert not outcome.is_cut_short


def test_a_place_of_another_vo_never_suits() -> None:
    wants = Requirement()
    level = Level(1, 1, 0, 1, wants.signature(), wants)
    assert suits(Place(1, 1, 1, "A", ()), level)
    assert not suits(Place(1, 2, 1, "A", ()), level)
