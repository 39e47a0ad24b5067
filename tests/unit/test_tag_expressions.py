"""Boolean expressions over tags mean what Python's operators mean, and are bounded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tags import TOO_DEEP, TOO_LONG, parse

NAMES = ("a", "b", "c", "d")
WORLDS = frozenset(
    frozenset(chosen) for chosen in chain.from_iterable(combinations(NAMES, many) for many in range(len(NAMES) + 1))
)
"""Every choice of tags that a node may carry."""


@dataclass(frozen=True)
class Truth:
    """The choices of tags of which something is true; Python's own operators combine them, with its own precedence."""

    worlds: frozenset[frozenset[str]]

    def __and__(self, other: Truth) -> Truth:
        return Truth(self.worlds & other.worlds)

    def __or__(self, other: Truth) -> Truth:
        return Truth(self.worlds | other.worlds)

    def __invert__(self) -> Truth:
        return Truth(WORLDS - self.worlds)


def truth(text: str) -> Truth:
    """What Python makes of an expression."""
    names = {name: Truth(frozenset(world for world in WORLDS if name in world)) for name in NAMES}
    found = eval(text, {"__builtins__": {}}, names)  # noqa: S307 - the text is made of four letters and operators below
    assert isinstance(found, Truth)
    return found


def _joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(parts, st.sampled_from(["&", " & ", "|", " | "]), parts)
    return st.one_of(pairs.map("".join), parts.map("~{}".format), parts.map("({})".format), parts.map(" ( {} )".format))


expressions = st.recursive(st.sampled_from(NAMES), _joined, max_leaves=12).map(str.strip)


@given(expressions)
def test_an_expression_is_true_where_pythons_operators_say_so(text: str) -> None:
    parsed = parse(text)
    assert frozenset(world for world in WORLDS if parsed.holds(world)) == truth(text).worlds


@given(expressions)
def test_the_canonical_form_means_the_same_and_is_its_own(text: str) -> None:
    canonical = parse(text).canonical
    assert truth(canonical) == truth(text)
    assert parse(canonical).canonical == canonical


@given(expressions, st.sampled_from(sorted(WORLDS, key=sorted)))
def test_a_reason_is_given_exactly_where_an_expression_is_not_true(text: str, world: frozenset[str]) -> None:
    parsed = parse(text)
    assert bool(list(parsed.reasons(world))) == (not parsed.holds(world))


@pytest.mark.parametrize(
    "same",
    [
        ("a & b & c", "c & (b & a)", "a & b & c & a", "((a)) & (b & c)", "~~a & b & c"),
        ("a & (b | c)", "(c | b) & a", "a & ~(~b & ~c)"),
        ("~a | ~b", "~(a & b)", "~(b & a & b)"),
    ],
    ids=["conjunction", "nested", "negated"],
)
def test_order_repetition_and_parentheses_do_not_change_the_canonical_form(same: tuple[str, ...]) -> None:
    assert len({parse(text).canonical for text in same}) == 1


@pytest.mark.parametrize(
    ("text", "tags", "reasons"),
    [
        ("cvmfs:lhcb & (os:el9 | os:ubuntu26)", (), ["lacks cvmfs:lhcb & (os:el9 | os:ubuntu26)"]),
        ("cvmfs:lhcb & (os:el9 | os:ubuntu26)", ("cvmfs:lhcb",), ["lacks os:el9 | os:ubuntu26"]),
        ("a & ~diracx:site:X", ("a", "diracx:site:X"), ["has diracx:site:X, which the job does not want"]),
        ("a & ~b", ("b",), ["lacks a", "has b, which the job does not want"]),
    ],
    ids=["all", "alternative", "refused", "both"],
)
def test_a_reason_names_what_is_missing_and_nothing_else(text: str, tags: tuple[str, ...], reasons: list[str]) -> None:
    assert list(parse(text).reasons(frozenset(tags))) == reasons


def _nonsense() -> Iterator[tuple[str, str, str]]:
    yield "nothing", "", "it is empty"
    yield "spaces", "  \t", "it is empty"
    yield "empty parentheses", "a & ()", "a tag is missing before ')' at character 6"
    yield "dangling and", "a &", "it ends where a tag is missing"
    yield "leading or", "| a", "a tag is missing before '|' at character 1"
    yield "two operators", "a & | b", "a tag is missing before '|' at character 5"
    yield "not alone", "~", "it ends where a tag is missing"
    yield "not behind", "a ~", "an operator is missing before '~' at character 3"
    yield "no operator", "a b", "an operator is missing before 'b' at character 3"
    yield "open", "(a", "a parenthesis is not closed"
    yield "closed too much", "a)", "the parenthesis at character 2 closes nothing"
    yield "foreign operator", "a && b", "a tag is missing before '&' at character 4"
    yield "foreign character", "a $ b", "'$' at character 3 is neither a tag nor one of"
    yield "comparison", "a >= 3", "'>' at character 3 is neither"
    yield "not ASCII", "a & tàg", "'à' at character 6 is neither a tag"
    yield "long name", "a & " + "b" * 64, "the tag at character 5 has 64 characters; 63 are allowed"
    yield "long", " | ".join(["a"] * 2501), f"it has 10001 characters; less than {TOO_LONG}"
    yield "just too long", "a" + " " * (TOO_LONG - 1), f"it has {TOO_LONG} characters"
    yield "deep", "(" * TOO_DEEP + "a" + ")" * TOO_DEEP, f"nested {TOO_DEEP} times"
    yield "deep by not", "~" * TOO_DEEP + "a", f"nested {TOO_DEEP} times"
    yield "deep by both", "~(" * (TOO_DEEP // 2) + "a" + ")" * (TOO_DEEP // 2), f"nested {TOO_DEEP} times"


@pytest.mark.parametrize(("text", "reason"), [pytest.param(t, r, id=name) for name, t, r in _nonsense()])
def test_nonsense_is_refused_with_the_reason_and_the_place(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse(text)


@pytest.mark.parametrize(
    ("text", "true", "false"),
    [
        ("(" * (TOO_DEEP - 1) + "a" + ")" * (TOO_DEEP - 1), "a", "b"),
        ("~" * (TOO_DEEP - 2) + "a", "a", "b"),
        ("~(" * (TOO_DEEP // 2 - 1) + "a" + ")" * (TOO_DEEP // 2 - 1), "b", "a"),
        ("".join(f"b{n} | (" for n in range(500)) + "a" + ")" * 500, "a", "c"),
        (
            "".join((f"a{n} & (", f"b{n} | (")[n % 2] for n in range(TOO_DEEP - 1)) + "a" + ")" * (TOO_DEEP - 1),
            None,
            "a",
        ),
        (" | ".join(f"(a{n} & ~b{n})" for n in range(500)), "a7", "b7"),
    ],
    ids=["parentheses", "not", "not of parentheses", "one side", "alternating", "many"],
)
def test_what_is_just_within_the_bounds_is_evaluated_without_recursion(text: str, true: str | None, false: str) -> None:
    parsed = parse(text)
    assert true is None or parsed.holds({true})
    assert not parsed.holds({false})
