"""What no matching round may do: overcommit, ignore a requirement, exceed a limit, give a job twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executors.matching.allowance import Allowance
from executors.matching.rounds import Match, Rules, trimmed
from pipeline.store.jobs import JobRow
from pipeline.store.match_rows import Level, LimitRow, Place, Selector, StartRate
from schemas.requirements import Requirement, Resource, fits, grant
from schemas.rooms import Room
from tests.unit.executors.matching_ground import NOW, VO, Farm, Queue, level_of, slot_of

quickly = settings(max_examples=40)
TYPES = ("user", "test")
LABELS = ("licence", "tape")


def _mostly(usual: object, *others: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual, usual, usual, *others])


requirements = st.builds(
    lambda gpu, **wishes: Requirement(**wishes, **({"gpu": {"count": gpu}} if gpu else {})),
    gpu=_mostly(None, 1, {"min": 1, "max": 2}),
    cores=_mostly(1, 2, 8, {"min": 1, "max": 8}, {"min": 2, "max": 4}),
    memory=_mostly(1_000, 7_000, {"overhead": 500, "per_core": 1_500}),
    disk=_mostly(10, 9_000),
    wall_time=_mostly(60, 1_000),
    tags=_mostly((), ("a",), "a & ~b"),
    sites=_mostly((), ("S1",)),
    banned_sites=_mostly((), ("S2",)),
    any_of=_mostly((), ({"sites": ("S2",), "cores": 4}, {"memory": 500})),
    labels=_mostly((), LABELS[:1], LABELS),
)


@st.composite
def queues(draw: st.DrawFn) -> Queue:
    """Up to five autoclusters of two groups and owners, with up to three priorities each."""
    waiting = {}
    for number in range(1, draw(st.integers(1, 5)) + 1):
        wants = draw(requirements)
        group, owner = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        job_type = draw(_mostly(*TYPES))
        for priority in draw(st.sets(st.integers(-2, 2), min_size=1, max_size=3)):
            head = draw(st.integers(0, 99)) * 10_000 + number * 1_000 + priority * 100 + 501
            waited = draw(_mostly(0.0, 4_000.0, 100_000.0))
            level = level_of(
                number, wants, group=group, owner=owner, priority=priority, head=head, job_type=job_type, waited=waited
            )
            waiting[level] = draw(st.integers(0, 12))
    return Queue(waiting)


@st.composite
def slot_lists(draw: st.DrawFn) -> list[Any]:
    """Slots on two sites; some nearly full, some over-committed already, some in test mode or reserved."""
    found = []
    for pilot_id in range(1, draw(st.integers(1, 5)) + 1):
        site = draw(st.integers(1, 2))
        gpus = draw(_mostly(0, 2))
        resource = Resource(
            site=f"S{site}",
            cores=draw(_mostly(8, 16)),
            memory=16_000,
            disk=20_000,
            wall_time=10**6,
            tags=draw(_mostly(("a",), (), ("a", "b"))),
            gpu={"count": gpus} if gpus else None,
        )
        free = Room(
            draw(_mostly(resource.cores, -1, 0, 3)), draw(_mostly(16_000, -1, 2_500)), draw(_mostly(20_000, -1)), gpus
        )
        found.append(
            slot_of(
                pilot_id,
                site=site,
                resource=resource,
                free=free,
                time_left=draw(_mostly(2_000.0, 0.0, 60.0)),
                only_job_type=draw(_mostly(None, "test")),
                reserved_for=draw(_mostly(None, 1, 99)),
            )
        )
    return found


selectors = st.builds(
    Selector,
    vo_id=_mostly(None, VO),
    site_id=_mostly(None, 1, 2),
    group_id=_mostly(None, 1, 2),
    owner_id=_mostly(None, 1, 2),
    job_type=_mostly(None, *TYPES),
    label=_mostly(None, *LABELS),
)
limit_lists = st.lists(st.tuples(selectors, st.integers(0, 9), st.integers(0, 5)), max_size=4).map(
    lambda rows: [LimitRow(number, f"limit{number}", *row) for number, row in enumerate(rows, 1)]
)
rate_lists = st.dictionaries(st.integers(1, 2), st.floats(0, 6), max_size=2).map(
    lambda tokens: [StartRate(site_id, 10, 60.0, left, NOW) for site_id, left in tokens.items()]
)


def _selects(selector: Selector, found: Match) -> bool:
    """The naive reading: every word that is said must be true."""
    level, place = found.level, found.place
    facts = {
        "vo_id": level.vo_id,
        "site_id": place.site_id,
        "group_id": level.group_id,
        "owner_id": level.owner_id,
        "job_type": level.job_type,
    }
    said = {word: getattr(selector, word) for word in facts if getattr(selector, word) is not None}
    return all(facts[word] == value for word, value in said.items()) and (
        selector.label is None or selector.label in level.requirement.labels
    )


@quickly
@given(slot_lists(), queues())
def test_every_match_meets_its_requirement_by_the_alternative_that_it_names(slots: list[Any], queue: Queue) -> None:
    outcome = Farm(queue).round(slots)
    time_left = {slot.place.pilot_id: slot.time_left for slot in slots}
    for found in outcome.matches:
        place = found.place
        resource = place.resource.model_copy(update={"wall_time": int(time_left[place.pilot_id])})
        wanted = found.level.requirement.specifications()[found.alternative]
        alone = Requirement.model_validate({**wanted.model_dump(), "any_of": ()})
        assert fits(alone, resource), fits(alone, resource).reasons
        assert wanted.needs.min_cores <= found.grant.cores <= wanted.needs.max_cores
        assert found.grant.memory == wanted.needs.memory(found.grant.cores)
        assert found.grant.disk == wanted.needs.disk
        assert wanted.needs.min_gpus <= found.grant.gpus <= wanted.needs.max_gpus
        assert place.only_job_type in (None, found.level.job_type)


@quickly
@given(slot_lists(), queues(), st.integers(1, 40))
def test_nodes_are_never_overcommitted_and_no_job_goes_twice(slots: list[Any], queue: Queue, most: int) -> None:
    outcome = Farm(queue, rules=Rules(most=most)).round(slots)
    taken: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for found in outcome.matches:
        granted = found.grant
        taken[found.place.pilot_id].update(
            cores=granted.cores, memory=granted.memory, disk=granted.disk, gpus=granted.gpus
        )
    for slot in slots:
        for word, amount in taken[slot.place.pilot_id].items():
            assert amount <= max(getattr(slot.free, word), 0)
    assert len({found.job.id for found in outcome.matches}) == len(outcome.matches) <= most


@quickly
@given(slot_lists(), queues(), limit_lists, rate_lists)
def test_limits_and_start_rates_are_never_exceeded(
    slots: list[Any], queue: Queue, limits: list[LimitRow], rates: list[StartRate]
) -> None:
    outcome = Farm(queue, limits=limits, rates=rates).round(slots)
    for limit in limits:
        counted = sum(_selects(limit.selector, found) for found in outcome.matches)
        assert counted <= max(limit.maximum - limit.running, 0)
    started = Counter(found.place.site_id for found in outcome.matches)
    assert all(started[rate.site_id] <= rate.tokens for rate in rates)


@quickly
@given(slot_lists(), queues(), limit_lists, rate_lists)
def test_what_is_trimmed_keeps_to_limits_that_were_read_anew(
    slots: list[Any], queue: Queue, limits: list[LimitRow], rates: list[StartRate]
) -> None:
    everything = Farm(queue).round(slots).matches
    allowance = Allowance(limits, rates, NOW)
    kept = trimmed(everything, allowance)
    assert [found for found in everything if found in kept] == kept
    for limit in limits:
        counted = sum(_selects(limit.selector, found) for found in kept)
        assert counted <= max(limit.maximum - limit.running, 0)
        assert allowance.limits_spent().get(limit.id, 0) == counted


@quickly
@given(slot_lists(), queues())
def test_nothing_is_left_that_still_fits(slots: list[Any], queue: Queue) -> None:
    slots = [slot for slot in slots if slot.place.reserved_for is None]
    farm = Farm(queue, rules=Rules(wide_reserve=0.0))
    outcome = farm.round(slots)
    for slot in slots:
        free = slot.free
        for found in outcome.matches:
            free = free.less(found.grant) if found.place.pilot_id == slot.place.pilot_id else free
        for key, level in queue.levels.items():
            if not queue.jobs[key] or slot.place.only_job_type not in (None, level.job_type):
                continue
            for specification in level.requirement.specifications():
                resource = slot.place.resource
                alone = Requirement.model_validate({**specification.model_dump(), "any_of": ()})
                if fits(alone, resource) and free.cores > 0:
                    assert grant(specification, free, slot.time_left, resource.power) is None


@quickly
@given(slot_lists(), queues())
def test_after_any_round_a_board_can_be_read_anew_and_emptied(slots: list[Any], queue: Queue) -> None:
    farm = Farm(queue)
    before = sorted(farm.board.levels(), key=lambda level: level.head_job_id)
    farm.round(slots)
    farm.board.replace_all(before)
    assert sorted(farm.board.levels(), key=lambda level: level.head_job_id) == before
    for level in before:
        farm.board.drop(level.autocluster_id)
    farm.board.refresh()
    assert not farm.board.levels()
    assert not any(owners for groups in farm.board.desks.values() for owners in groups.values())


class _Breaking(Queue):
    """A backlog whose database is away after the first answer."""

    def take(self, level: Level, most: int) -> Sequence[JobRow]:
        if self._taken:
            raise ConnectionError
        return super().take(level, most)


def test_a_round_that_fails_leaves_the_board_as_it_was() -> None:
    farm = Farm(_Breaking({level_of(number, Requirement()): 1 for number in (1, 2)}))
    before = set(farm.board.levels())
    with pytest.raises(ConnectionError):
        farm.round([slot_of(1)])
    assert set(farm.board.levels()) == before


@quickly
@given(slot_lists(), queues())
def test_no_level_that_has_jobs_left_is_lost_between_rounds(slots: list[Any], queue: Queue) -> None:
    farm = Farm(queue, rules=Rules(most=5))
    for _ in range(2):
        farm.round(slots)
        known = {(level.autocluster_id, level.priority): level for level in farm.board.levels()}
        for key, ids in queue.jobs.items():
            assert not ids or known[key].head_job_id <= ids[0]


def test_a_place_in_test_mode_takes_its_type_of_jobs_only() -> None:
    wants = Requirement()
    queue = Queue({level_of(1, wants): 9, level_of(2, wants, job_type="test"): 3})
    outcome = Farm(queue).round([slot_of(1, only_job_type="test")])
    assert [found.level.job_type for found in outcome.matches] == ["test"] * 3


def test_a_range_job_gets_the_cores_that_are_free_up_to_its_most() -> None:
    wants = Requirement(cores={"min": 2, "max": 6}, memory={"overhead": 0, "per_core": 1_000})
    outcome = Farm(Queue({level_of(1, wants): 5})).round([slot_of(1, 13)])
    assert [found.grant.cores for found in outcome.matches] == [6, 6]
    outcome = Farm(Queue({level_of(1, wants): 5})).round([slot_of(1, 16)])
    assert [found.grant.cores for found in outcome.matches] == [6, 6, 4]


def test_limits_that_concern_nothing_here_do_not_count() -> None:
    level = level_of(1, Requirement(labels=("licence",)))
    place: Place = slot_of(1).place
    rows = [
        LimitRow(1, "here", Selector(site_id=1, label="licence"), 5, 2),
        LimitRow(2, "elsewhere", Selector(site_id=2), 0, 0),
        LimitRow(3, "type", Selector(vo_id=VO, job_type="merge"), 0, 0),
    ]
    allowance = Allowance(rows, [], NOW)
    assert allowance.left(level, place) == 3
    assert allowance.limits_of(level, place) == (1,)
