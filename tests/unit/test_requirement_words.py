"""What may be written as a requirement, what it means, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.cli.jobfile import first_complaint
from schemas.campaign import Campaign
from schemas.requirements import Requirement, Resource, Specification, fits
from schemas.sites import SitesFile
from schemas.specifications import MOST_ALTERNATIVES, MOST_LABELS
from tests.unit.naive_fits import fitting
from tests.unit.wishes import nodes, wishes

STORED = Path(__file__).with_name("stored_by_0_2_0")
RICH: dict[str, Any] = {
    "cores": {"min": 2, "max": 8},
    "memory": {"overhead": 500, "per_core": 1000, "limit": {"overhead": 600, "per_core": 1500}},
    "disk": 2000,
    "wall_time": 7200,
    "cpu_work": 50_000,
    "tags": "a & (b | ~c)",
    "sites": ["A", "B"],
    "banned_sites": ["C"],
    "system": {"name": "Linux", "glibc": "2.28", "user_namespaces": True},
    "architecture": {"name": "x86_64", "level": {"min": 2, "max": 3}},
    "gpu": {
        "count": {"min": 2, "max": 3},
        "memory": 16_000,
        "vendor": "nvidia",
        "compute_capability": {"min": "7.5", "max": "9.0"},
        "driver": "535.104",
    },
    "io": {"scratch": 100, "lan": 50},
    "containers": ["apptainer", "podman"],
    "labels": ["licence:matlab", "db"],
    "any_of": [{"cores": 1}, {"gpu": None, "tags": ["d", "e"]}],
}
OTHERWISE: dict[str, Any] = {
    "cores.min": 1,
    "cores.max": 9,
    "memory.overhead": 400,
    "memory.per_core": 1001,
    "memory.limit.overhead": 700,
    "memory.limit.per_core": 1501,
    "disk": 2001,
    "wall_time": 7201,
    "cpu_work": 50_001,
    "tags": "a & (b & ~c)",
    "sites": ["A"],
    "banned_sites": [],
    "system.name": "darwin",
    "system.glibc": "2.29",
    "system.user_namespaces": False,
    "architecture.name": "aarch64",
    "architecture.level.min": 1,
    "architecture.level.max": 4,
    "gpu.count.min": 1,
    "gpu.count.max": 4,
    "gpu.memory": 16_001,
    "gpu.vendor": "amd",
    "gpu.compute_capability.min": "7.6",
    "gpu.compute_capability.max": "12.0",
    "gpu.driver": "535.105",
    "io.scratch": 101,
    "io.lan": 51,
    "containers": ["podman"],
    "labels": ["db"],
    "any_of": [{"cores": 1}],
}
"""For every leaf of `RICH`, another value."""


def signature(wish: Any) -> str:
    return Requirement.model_validate(wish).signature()


def leaves(written: Any, path: str = "") -> set[str]:
    """The paths of what `OTHERWISE` must change."""
    if not isinstance(written, dict):
        return {path}
    return {leaf for name, inner in written.items() for leaf in leaves(inner, f"{path}.{name}" if path else name)}


def changed(written: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one leaf changed; with None, left out."""
    name, _, rest = path.partition(".")
    if not rest:
        return {**written, name: value} if value is not None else {k: v for k, v in written.items() if k != name}
    return {**written, name: changed(written[name], rest, value)}


@pytest.mark.parametrize("path", sorted(OTHERWISE))
def test_whatever_is_changed_or_left_out_changes_the_signature(path: str) -> None:
    assert signature(changed(RICH, path, OTHERWISE[path])) != signature(RICH)
    if path != "architecture.name":  # a level alone is one of x86_64 anyway
        assert signature(changed(RICH, path, None)) != signature(RICH)


def test_every_leaf_of_the_language_is_tried() -> None:
    assert leaves(RICH) == set(OTHERWISE)
    assert set(RICH) == set(Requirement.model_fields)
    assert set(Specification(containers=("podman",)).meaning()) == set(Specification.model_fields)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tags": ["x", "y", "x"]}, {"tags": ["y", "x"]}),
        ({"tags": ["x", "y"]}, {"tags": "y & x"}),
        ({"tags": "x | y & z"}, {"tags": "(z & y) | x"}),
        ({"sites": ["A", "B"], "labels": ["l", "k"]}, {"labels": ["k", "l", "k"], "sites": ["B", "A"]}),
        ({"cores": 4}, {"cores": {"min": 4, "max": 4}}),
        ({"memory": 2000}, {"memory": {"overhead": 2000, "limit": {"overhead": 2000}}}),
        ({"memory": 1024, "tags": [], "io": {}}, {}),
        ({"system": {"glibc": "2.0"}}, {"system": {"glibc": "2"}}),
        ({"architecture": {"name": "AMD64"}}, {"architecture": {"name": "x86-64"}}),
        ({"architecture": {"level": {"min": 3}}}, {"architecture": {"name": "x86_64", "level": {"min": 3}}}),
        ({"any_of": [{"cores": 1, "disk": 5}]}, {"disk": 5}),
        ({"cores": 1, "any_of": [{"cores": 2}]}, {"cores": 3, "any_of": [{"cores": 2}]}),
    ],
    ids=[
        "repeated", "list or expression", "expression", "order", "range of one", "limit at the request", "defaults",
        "version", "other name", "level alone", "one alternative", "overridden",
    ],
)  # fmt: skip
def test_what_means_the_same_has_the_same_signature(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert signature(one) == signature(other)
    assert Requirement.model_validate(one) == Requirement.model_validate(other)
    assert len({Requirement.model_validate(one), Requirement.model_validate(other)}) == 1


@example({"cores": {"min": 1}}, Random(1), True)
@example({"gpu": {"count": 1}, "any_of": [{"gpu": None, "cores": 1}]}, Random(1), True)
@given(wishes, st.randoms(use_true_random=False), st.booleans())
def test_a_requirement_means_the_same_however_it_is_ordered_and_stored(
    wish: dict[str, Any], random: Any, exclude_defaults: bool
) -> None:
    def shuffled(written: Any) -> Any:
        if isinstance(written, dict):
            names = random.sample(sorted(written), len(written))
            return {n: [shuffled(one) for one in written[n]] if n == "any_of" else shuffled(written[n]) for n in names}
        return random.sample(written, len(written)) if isinstance(written, list) else written

    requirement = Requirement.model_validate(wish)
    assert signature(shuffled(wish)) == requirement.signature()
    for stored in (
        requirement.model_dump_json(exclude_defaults=exclude_defaults),
        requirement.model_dump_json(exclude_unset=exclude_defaults),
        json.dumps(requirement.model_dump(mode="json")),
    ):
        again = Requirement.model_validate_json(stored)
        assert again.signature() == requirement.signature()
        assert again.specifications() == requirement.specifications()


@given(wishes, wishes, nodes)
def test_equal_signatures_mean_that_the_same_nodes_fit(
    one: dict[str, Any], other: dict[str, Any], node: dict[str, Any]
) -> None:
    if signature(one) == signature(other):
        assert fitting(one, node) == fitting(other, node)


def test_a_copy_forgets_what_was_worked_out_of_the_original() -> None:
    wide = Requirement.model_validate({"cores": 8, "tags": "x"})
    assert (wide.specifications()[0].min_cores, wide.needs.min_cores, len(wide.signature())) == (8, 8, 64)
    narrow = wide.model_copy(update={"cores": 1, "tags": ("y",)})
    assert (narrow.specifications()[0].min_cores, narrow.needs.min_cores) == (1, 1)
    assert narrow == Requirement.model_validate({"cores": 1, "tags": ["y"]})
    assert narrow != wide


@pytest.mark.parametrize("stored", sorted(STORED.glob("*.json")), ids=lambda path: path.stem)
def test_what_release_0_2_0_stored_is_read_and_can_be_read_by_it_again(stored: Path) -> None:
    body = stored.read_text().strip()
    requirement = Requirement.model_validate_json(body)
    assert len(requirement.specifications()) == 1
    assert requirement.model_dump_json() == body
    kept = json.loads(requirement.model_dump_json(exclude_defaults=True))
    assert kept.items() <= json.loads(body).items()


def _refused() -> dict[str, tuple[dict[str, Any], str]]:
    long, deep = "a & " * 2500 + "a", "(" * 1000 + "a" + ")" * 1000
    return {
        "no cores": ({"cores": 0}, "cores: Input should be greater than or equal to 1"),
        "too many cores": ({"cores": 2**31}, "cores: Input should be less than or equal to"),
        "yes for a number": ({"cores": True}, "cores: it must be a number, not true"),
        "yes for a rate": ({"io": {"lan": True}}, "io.lan: it must be a number, not true"),
        "yes for a version": ({"system": {"glibc": True}}, "system.glibc: it must be a version in quotes"),
        "no for a site": ({"sites": [False]}, "sites.0: write it in quotes: without, YAML takes it for true or false"),
        "one site": ({"sites": "A"}, "sites: it must be a list, not a text"),
        "system in a word": ({"system": "linux"}, "system: it must be a mapping of fields, not a text"),
        "level in a word": ({"architecture": {"level": "v3"}}, "architecture.level: say min, max or both of it"),
        "one capability": ({"gpu": {"compute_capability": 8.0}}, "gpu.compute_capability: say min, max or both of it"),
        "GPUs in a number": ({"gpu": 2}, "gpu: it must be a mapping of fields, not a number"),
        "no alternatives": ({"any_of": [None]}, "any_of.0: it must be a mapping of fields, not empty"),
        "min above max": ({"cores": {"min": 3, "max": 2}}, "cores: min 3 is more than max 2"),
        "empty range": ({"cores": {}}, "cores: give min, max or both"),
        "half a core": ({"cores": 1.5}, "cores: Input should be a valid integer"),
        "not a number": ({"memory": float("nan")}, "memory: Input should be a finite number"),
        "infinite": ({"cpu_work": float("inf")}, "cpu_work: Input should be a finite number"),
        "no memory": ({"memory": {"overhead": 0}}, "memory: give overhead, per_core or both"),
        "limit below": (
            {"memory": {"per_core": 2, "limit": {"per_core": 1}}},
            "memory: the limit's per_core 1 is less than the 2 requested",
        ),
        "unknown field": ({"colour": "red"}, "colour: unknown field"),
        "unknown inside": ({"gpu": {"colour": "red"}}, "gpu.colour: unknown field"),
        "long expression": ({"tags": long}, "tags: it has 10001 characters; less than 10000 are allowed"),
        "deep expression": ({"tags": deep}, "tags: it is nested 1000 times or more; less is allowed"),
        "empty parentheses": ({"tags": "a & ()"}, "tags: a tag is missing before ')' at character 6"),
        "dangling": ({"tags": "a |"}, "tags: it ends where a tag is missing"),
        "tags of numbers": ({"tags": [1]}, "tags.0: write it in quotes: without, YAML takes it for a number"),
        "tag that is none": ({"tags": ["a b"]}, "tags.0: 'a b' should match pattern"),
        "too many tags": ({"tags": [f"t{n}" for n in range(1001)]}, "tags: it must have at most 1000 entries"),
        "version as a number": ({"system": {"glibc": 2.28}}, "system.glibc: write the version 2.28 in quotes"),
        "no version": ({"system": {"glibc": "new"}}, "system.glibc: 'new' is no version"),
        "endless version": ({"gpu": {"driver": "1." * 60}}, "gpu.driver: '1.1.1."),
        "versions turned": (
            {"gpu": {"compute_capability": {"min": "12.0", "max": "7.5"}}},
            "gpu.compute_capability: min 12.0 is more than max 7.5",
        ),
        "levels turned": (
            {"architecture": {"level": {"min": 4, "max": 2}}},
            "architecture.level: min 4 is more than max 2",
        ),
        "no rate": ({"io": {"lan": 0}}, "io.lan: Input should be greater than 0"),
        "empty alternative": ({"any_of": [{"cores": 1}, {}]}, "any_of.1: say what is different in it"),
        "nested alternatives": ({"any_of": [{"any_of": []}]}, "any_of.0.any_of: unknown field"),
        "labelled alternative": ({"any_of": [{"labels": ["x"]}]}, "any_of.0.labels: unknown field"),
        "wrong alternative": (
            {"any_of": [{"cores": {"min": 2, "max": 1}}]},
            "any_of.0.cores: min 2 is more than max 1",
        ),
        "too many alternatives": (
            {"any_of": [{"cores": n + 1} for n in range(MOST_ALTERNATIVES + 1)]},
            "any_of: it must have at most 16 entries",
        ),
        "too many labels": (
            {"labels": [f"l{n}" for n in range(MOST_LABELS + 1)]},
            "labels: it must have at most 32 entries",
        ),
    }


REFUSED = _refused()


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_nonsense_is_refused_with_the_field_and_the_reason(case: str) -> None:
    wish, complaint = REFUSED[case]
    with pytest.raises(ValidationError) as refusal:
        Requirement.model_validate(wish)
    assert first_complaint(refusal.value, wish).startswith(complaint)
    step = {"name": "s", "command": ["true"], "requirements": wish}
    raw = {"campaign": "c", "steps": [step]}
    with pytest.raises(ValidationError) as refusal:
        Campaign.model_validate(raw)
    assert first_complaint(refusal.value, raw).startswith(f"steps.0.requirements.{complaint}")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"cores": 0}, "cores: Input should be greater than or equal to 1"),
        ({"wall_time": -1}, "wall_time: Input should be greater than or equal to 0"),
        ({"power": float("nan")}, "power: Input should be a finite number"),
        ({"power": 0}, "power: Input should be greater than 0"),
        ({"system": {"glibc": "2.x"}}, "system.glibc: '2.x' is no version"),
        ({"architecture": {"level": 0}}, "architecture.level: Input should be greater than or equal to 1"),
        ({"gpu": {"count": 0}}, "gpu.count: Input should be greater than or equal to 1"),
        ({"tags": "a & b"}, "tags: it must be a list, not a text"),
        ({"power": True}, "power: it must be a number, not true"),
        ({"colour": "red"}, "colour: unknown field"),
    ],
    ids=["cores", "time", "NaN", "power", "version", "level", "gpus", "expression", "truth", "unknown"],
)
def test_a_node_that_is_nonsense_is_refused_with_the_field_and_the_reason(
    words: dict[str, Any], complaint: str
) -> None:
    node = {"site": "A", "cores": 1, "memory": 1, "disk": 1, "wall_time": 1, **words}
    with pytest.raises(ValidationError) as refusal:
        Resource.model_validate(node)
    assert first_complaint(refusal.value, node).startswith(complaint)


def test_a_site_queue_describes_its_nodes_in_the_words_that_jobs_use() -> None:
    text = """
    storages: [{name: s, url: "file:///s"}]
    vo_shares: {lhcb: 3, gridpp: 1.5}
    sites:
      - name: A
        storages: [s]
        max_starts: {jobs: 100, seconds: 60}
        queues:
          - name: gpus
            cores: 16
            power: 21.5
            gpu: {count: 2, vendor: NVIDIA, memory: 40960, compute_capability: "8.0", driver: "535.104.05"}
            system: {name: Linux, glibc: "2.34", user_namespaces: true}
            architecture: {level: 4}
            io: {scratch: 500, lan: 100}
            tags: [cvmfs:lhcb]
    """
    (site,) = SitesFile.model_validate(yaml.safe_load(text)).sites
    assert site.max_starts is not None
    (queue,) = site.queues
    assert queue.gpu is not None
    assert (queue.gpu.vendor, queue.architecture.name, queue.system.name) == ("nvidia", "x86_64", "linux")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"max_starts": {"jobs": 0, "seconds": 1}}, "sites.0.max_starts.jobs: "),
        ({"max_starts": {"jobs": 1, "seconds": float("nan")}}, "sites.0.max_starts.seconds: Input should be a finite"),
        ({"max_starts": {"jobs": 1}}, "sites.0.max_starts.seconds: Field required"),
    ],
    ids=["no jobs", "NaN", "no time"],
)
def test_a_start_rate_that_is_nonsense_is_refused(words: dict[str, Any], complaint: str) -> None:
    storages = [{"name": "s", "url": "file:///s"}]
    raw = {"storages": storages, "sites": [{"name": "A", "storages": ["s"], "queues": [{"name": "q"}], **words}]}
    with pytest.raises(ValidationError) as refusal:
        SitesFile.model_validate(raw)
    assert first_complaint(refusal.value, raw).startswith(complaint)


def test_an_alternative_may_go_back_to_what_is_usual() -> None:
    wanted = Requirement.model_validate({"cores": 8, "gpu": {}, "any_of": [{"cores": 1, "gpu": None}]})
    plain = Resource(site="A", cores=1, memory=2000, disk=2000, wall_time=4000)
    assert fits(Requirement.model_validate_json(wanted.model_dump_json(exclude_defaults=True)), plain)
