"""Which node may run what: the rule against a naive one, and its two halves against each other."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from schemas.requirements import Requirement, Resource, fits, grant, room_of, static_misfits
from schemas.rooms import Room
from tests.unit.naive_fits import alternatives, fitting, most_cores
from tests.unit.wishes import WORDS, nodes, wishes

THOROUGHLY = settings(max_examples=400)


@THOROUGHLY
@given(wishes, nodes)
def test_fits_says_what_a_naive_rule_says(wish: dict[str, Any], node: dict[str, Any]) -> None:
    fit = fits(Requirement.model_validate(wish), Resource.model_validate(node))
    expected = fitting(wish, node)
    event("fits" if fit else "does not fit")
    assert bool(fit) == (expected is not None)
    assert bool(fit) == (not fit.reasons)
    assert expected is None or fit.alternative == expected


@pytest.mark.parametrize("word", sorted(WORDS))
@given(data=st.data(), node=nodes)
def test_fits_says_of_each_single_wish_what_a_naive_rule_says(
    word: str, data: st.DataObject, node: dict[str, Any]
) -> None:
    small = {"memory": 1, "disk": 1, "wall_time": 1}
    wish = {**small, word: data.draw(WORDS[word])}
    assert bool(fits(Requirement.model_validate(wish), Resource.model_validate(node))) == (fitting(wish, node) == 0)


@THOROUGHLY
@given(wishes, nodes)
def test_fits_is_static_misfits_and_a_grant_of_the_empty_node(wish: dict[str, Any], node: dict[str, Any]) -> None:
    requirement, resource = Requirement.model_validate(wish), Resource.model_validate(node)
    granted = [
        index
        for index, one in enumerate(requirement.specifications())
        if not static_misfits(one, resource)
        and grant(one, room_of(resource), resource.wall_time, resource.power) is not None
    ]
    fit = fits(requirement, resource)
    assert (fit.alternative if fit else None) == next(iter(granted), None)


rooms = st.builds(Room, st.integers(0, 6), st.integers(0, 800), st.integers(0, 30), st.integers(0, 4))


@THOROUGHLY
@given(wishes, rooms, st.floats(0, 40), st.sampled_from([None, 1.0, 10.0]))
def test_a_grant_is_the_most_that_there_is_room_for_and_never_more(
    wish: dict[str, Any], room: Room, time_left: float, power: float | None
) -> None:
    numbers = {"cores", "memory", "disk", "wall_time", "cpu_work"}
    node = {"site": "A", "wall_time": time_left, **({} if power is None else {"power": power})}
    node |= {"cores": room.cores, "memory": room.memory, "disk": room.disk}
    for written, one in zip(alternatives(wish), Requirement.model_validate(wish).specifications(), strict=True):
        given_ = grant(one, room, time_left, power)
        cores = most_cores({word: value for word, value in written.items() if word in numbers}, node)
        if cores is None or room.gpus < one.least.gpus:
            assert given_ is None
            continue
        assert given_ is not None
        assert given_.cores == cores
        assert given_.memory == one.memory_for(cores)
        assert one.least.gpus <= given_.gpus
        assert min(astuple(room.less(given_))) >= 0
        assert 0 < given_.seconds <= min(one.wall_time, time_left)


def _node(**words: Any) -> Resource:
    return Resource.model_validate(
        {"site": "A", "cores": 8, "memory": 16_000, "disk": 20_000, "wall_time": 86_000, **words}
    )


@pytest.mark.parametrize(
    ("wish", "node", "reasons"),
    [
        ({"cores": 16}, {}, ["wants cores 16, has 8"]),
        ({"cores": {"min": 16}}, {}, ["wants cores 16, has 8"]),
        ({"cores": 4, "memory": {"per_core": 5000}}, {}, ["wants memory 20000 MiB, has 16000 MiB"]),
        ({"wall_time": 86_400}, {}, ["wants wall_time 86400 s, has 86000 s"]),
        ({"cpu_work": 1e6}, {}, ["does not say its power, which cpu_work needs"]),
        ({"cpu_work": 1e6}, {"power": 10}, ["would need 100000 s for cpu_work 1e+06, wants wall_time 3600 s"]),
        ({"tags": ["x", "y"]}, {"tags": ["y"]}, ["lacks x"]),
        ({"tags": "x & (y | z)"}, {"tags": ["z"]}, ["lacks x"]),
        ({"sites": ["B"]}, {}, ["A is not among the job's sites"]),
        ({"banned_sites": ["A"]}, {}, ["A is banned by the job"]),
        ({"system": {"glibc": "2.28"}}, {}, ["does not say its glibc"]),
        ({"system": {"glibc": "2.28"}}, {"system": {"glibc": "2.9"}}, ["wants glibc 2.28, has 2.9"]),
        ({"system": {"name": "Linux"}}, {"system": {"name": "Darwin"}}, ["wants system linux, has darwin"]),
        ({"system": {"user_namespaces": True}}, {}, ["does not say whether it has user namespaces"]),
        ({"system": {"user_namespaces": True}}, {"system": {"user_namespaces": False}}, ["lacks user namespaces"]),
        (
            {"architecture": {"name": "arm64"}},
            {"architecture": {"level": 3}},
            ["wants architecture aarch64, has x86_64"],
        ),
        (
            {"architecture": {"level": {"min": 4}}},
            {"architecture": {"level": 3}},
            ["wants microarchitecture level 4, has 3"],
        ),
        (
            {"architecture": {"level": {"max": 2}}},
            {"architecture": {"level": 3}},
            ["wants microarchitecture level 2 at most, has 3"],
        ),
        ({"gpu": {}}, {}, ["has no GPU"]),
        ({"gpu": {"count": 2, "memory": 9}}, {"gpu": {}}, ["wants GPUs 2, has 1", "does not say its GPU memory"]),
        (
            {"gpu": {"compute_capability": {"min": "7.5", "max": "9.0"}}},
            {"gpu": {"compute_capability": "12.0"}},
            ["wants compute capability 9.0 at most, has 12.0"],
        ),
        ({"io": {"scratch": 100}}, {"io": {"scratch": 50}}, ["wants scratch rate 100.0 MB/s, has 50.0 MB/s"]),
    ],
    ids=lambda value: next(iter(value), None) if isinstance(value, dict) else None,
)
def test_a_misfit_says_what_is_wanted_and_what_is_there(
    wish: dict[str, Any], node: dict[str, Any], reasons: list[str]
) -> None:
    assert list(fits(Requirement.model_validate(wish), _node(**node)).reasons) == reasons


def test_of_several_alternatives_the_one_that_comes_closest_gives_the_reasons() -> None:
    wanted = Requirement.model_validate(
        {"tags": ["x"], "any_of": [{"gpu": {}, "cores": 9}, {"cores": 2, "memory": 1000}]}
    )
    assert fits(wanted, _node()).reasons == ("any_of[1] lacks x",)
    assert fits(wanted, _node()).alternative == 1
    assert fits(wanted, _node(tags=["x"], gpu={}, cores=9)).alternative == 0


def test_a_limit_of_memory_is_where_an_attempt_is_killed_and_takes_no_room() -> None:
    plain = Requirement.model_validate({"memory": 2000}).specifications()[0]
    assert plain.memory_limit_for(8) == 2000
    wish = {"cores": {"min": 1, "max": 8}, "memory": {"overhead": 500, "per_core": 1000, "limit": {"per_core": 1500}}}
    elastic = Requirement.model_validate(wish).specifications()[0]
    given_ = grant(elastic, Room(8, 5000, 2000), 4000, None)
    assert given_ is not None
    assert (given_.cores, given_.memory) == (4, 4500)
    assert elastic.memory_limit_for(given_.cores) == 6500


def test_the_work_takes_less_time_with_more_cores_and_faster_ones() -> None:
    wanted = Requirement.model_validate({"cores": {"min": 1, "max": 4}, "cpu_work": 20_000}).specifications()[0]
    assert grant(wanted, Room(1, 2000, 2000), 4000, 5.0) is None
    two, fast = grant(wanted, Room(2, 2000, 2000), 4000, 5.0), grant(wanted, Room(1, 2000, 2000), 4000, 10.0)
    assert two is not None
    assert fast is not None
    assert (two.seconds, two.charge, fast.seconds) == (2000.0, 4000, 2000.0)
