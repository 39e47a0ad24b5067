"""What users may write as requirements, and nodes they may meet: small values, so that they often just fit."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TAGS = ("a", "b", "c")
SITES = ("A", "B")
RUNTIMES = ("apptainer", "podman")
VERSIONS = ("2.9", "2.17", "2.28", "12.0", "12", "535.104.05")


def _some(**words: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=words)


def _range(values: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, int]]:
    both = st.tuples(values, values).map(lambda pair: {"min": min(pair), "max": max(pair)})
    return st.one_of(both, both.map(lambda pair: {"max": pair["max"]}), both.map(lambda pair: {"min": pair["min"]}))


def _names(names: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), max_size=3)


counts = st.integers(1, 4)
versions = st.sampled_from(VERSIONS)
capabilities = st.sampled_from(["7.5", "8.0", "8.9", "12.0"])
rates = _some(scratch=st.sampled_from([10.0, 100.0]), lan=st.sampled_from([10.0, 100.0]))
expressions = st.recursive(
    st.sampled_from(TAGS),
    lambda parts: st.one_of(
        st.tuples(parts, st.sampled_from("&|"), parts).map(" ".join),
        parts.map("~({})".format),
        parts.map("({})".format),
    ),
    max_leaves=5,
)

WORDS: dict[str, st.SearchStrategy[Any]] = {
    "cores": st.one_of(counts, _range(counts)),
    "memory": st.one_of(
        st.integers(1, 400),
        st.fixed_dictionaries({"per_core": st.integers(1, 200)}, optional={"overhead": st.integers(0, 200)}),
        st.fixed_dictionaries({"overhead": st.integers(1, 400)}),
    ),
    "disk": st.integers(1, 30),
    "wall_time": st.integers(1, 30),
    "cpu_work": st.integers(1, 300).map(float),
    "tags": st.one_of(_names(TAGS), expressions),
    "sites": _names(SITES),
    "banned_sites": _names(SITES),
    "system": _some(name=st.sampled_from(["linux", "darwin"]), glibc=versions, user_namespaces=st.booleans()),
    "architecture": _some(name=st.sampled_from(["x86_64", "aarch64"]), level=_range(counts)),
    "gpu": st.none()
    | _some(
        count=st.one_of(counts, _range(counts)),
        memory=st.integers(1, 30),
        vendor=st.sampled_from(["nvidia", "amd"]),
        compute_capability=st.one_of(
            capabilities.map(lambda least: {"min": least}), capabilities.map(lambda most: {"max": most})
        ),
        driver=versions,
    ),
    "io": rates,
    "containers": _names(RUNTIMES),
}


def _few(least: int) -> st.SearchStrategy[dict[str, Any]]:
    words = st.lists(st.sampled_from(sorted(WORDS)), min_size=least, max_size=2, unique=True)
    return words.flatmap(lambda chosen: st.fixed_dictionaries({word: WORDS[word] for word in chosen}))


_small = st.just({"memory": 100, "disk": 10, "wall_time": 10})
_differences = st.lists(_few(1), max_size=3)
wishes = st.tuples(_small, _few(0), _differences).map(
    lambda parts: {**parts[0], **parts[1], **({"any_of": parts[2]} if parts[2] else {})}
)
"""Requirements as users write them."""

nodes = st.fixed_dictionaries(
    {
        "site": st.sampled_from(SITES),
        "cores": st.integers(1, 6),
        "memory": st.integers(50, 800),
        "disk": st.integers(5, 30),
        "wall_time": st.integers(5, 30),
    },
    optional={
        "tags": _names(TAGS),
        "power": st.sampled_from([1.0, 10.0]),
        "system": _some(name=st.sampled_from(["linux", "darwin"]), glibc=versions, user_namespaces=st.booleans()),
        "architecture": _some(name=st.sampled_from(["x86_64", "aarch64"]), level=counts),
        "gpu": _some(
            count=counts,
            memory=st.integers(1, 30),
            vendor=st.sampled_from(["nvidia", "amd"]),
            compute_capability=capabilities,
            driver=versions,
        ),
        "io": rates,
        "containers": _names(RUNTIMES),
    },
)
"""Nodes as sites files describe them."""
