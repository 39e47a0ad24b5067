"""Forward decay keeps its books whatever the order of additions; policies that make no sense are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.policy import Policy
from schemas.shares import moved, present, settlement, used_by, weight_of

LANDMARK = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = 7 * 86_400.0
charges = st.lists(st.tuples(st.integers(0, 10**7), st.floats(-WEEK, 10 * WEEK)), min_size=1, max_size=20)


def _at(seconds: float) -> datetime:
    return LANDMARK + timedelta(seconds=seconds)


@given(charges)
def test_usage_is_the_sum_of_charges_each_faded_by_its_own_age(rows: list[tuple[int, float]]) -> None:
    weight = sum(weight_of(charge, _at(seconds), LANDMARK, WEEK) for charge, seconds in rows)
    now = _at(10 * WEEK)
    naive = sum(charge * 0.5 ** ((10 * WEEK - seconds) / WEEK) for charge, seconds in rows)
    assert present(weight, LANDMARK, now, WEEK) == pytest.approx(naive, rel=1e-6)


@given(charges, st.floats(0, 5 * WEEK))
def test_moving_the_landmark_changes_nothing(rows: list[tuple[int, float]], seconds: float) -> None:
    weight = sum(weight_of(charge, _at(at), LANDMARK, WEEK) for charge, at in rows)
    later = moved(weight, LANDMARK, _at(seconds), WEEK)
    now = _at(10 * WEEK)
    assert present(later, _at(seconds), now, WEEK) == pytest.approx(present(weight, LANDMARK, now, WEEK), rel=1e-6)


@given(st.integers(1, 10**7), st.integers(0, 10**7), st.floats(0, 10 * WEEK))
def test_after_the_settlement_it_is_as_if_the_used_had_been_charged(charge: int, used: int, seconds: float) -> None:
    weight = weight_of(charge, _at(seconds), LANDMARK, WEEK)
    weight += settlement(charge, used, _at(seconds), LANDMARK, WEEK)
    assert weight == pytest.approx(weight_of(used, _at(seconds), LANDMARK, WEEK), rel=1e-6, abs=1e-3)


@pytest.mark.parametrize("gap", [-1e9, 1e9], ids=["landmark-ahead", "long-ago"])
def test_usage_is_a_number_however_many_half_lives_have_passed(gap: float) -> None:
    later = present(moved(1e12, LANDMARK, _at(gap), 1.0), _at(gap), _at(2 * gap), 1.0)
    assert isfinite(later)
    assert later >= 0
    assert isfinite(weight_of(10**12, _at(gap), LANDMARK, 1.0))
    assert present(1e12, LANDMARK, _at(1e9), 1.0) == pytest.approx(0.0)


def test_an_attempt_that_never_started_used_nothing() -> None:
    assert used_by(8, None, _at(100)) == 0
    assert used_by(8, _at(0), _at(100)) == 800
    assert used_by(8, _at(100), _at(0)) == 0


def test_a_policy_says_shares_and_limits() -> None:
    policy = Policy.model_validate(
        {
            "shares": {"groups": {"prod": {"share": 3, "owners": {"alice": 2}}, "user": {}}},
            "limits": [{"name": "merges", "max_running": 100, "job_type": "Merge", "site": "X"}],
        }
    )
    assert policy.shares.groups["prod"].owners == {"alice": 2.0}
    assert policy.shares.groups["user"].share == 1.0
    assert policy.limits[0].max_running == 100
    assert Policy() == Policy.model_validate({})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"shares": {"groups": {"prod": {"share": 0}}}}, "greater than or equal"),
        ({"shares": {"groups": {"prod": {"share": -1}}}}, "greater than or equal"),
        ({"shares": {"groups": {"prod": {"share": float("inf")}}}}, "finite"),
        ({"shares": {"groups": {"prod": {"share": float("nan")}}}}, "finite"),
        ({"shares": {"groups": {"prod": {"share": 1e7}}}}, "less than or equal"),
        ({"shares": {"groups": {str(n): {} for n in range(1_001)}}}, "at most 1000"),
        ({"shares": {"groups": {g: {"owners": {str(n): 1 for n in range(600)}} for g in "ab"}}}, "1200 owners"),
        ({"shares": {"gruops": {}}}, "Extra inputs"),
        ({"limits": [{"name": "a", "max_running": 1}]}, "selects nothing"),
        ({"limits": [{"name": "a", "max_running": -1, "site": "X"}]}, "greater than or equal to 0"),
        ({"limits": [{"name": "a", "max_running": 1, "site": "X"}] * 2}, "two limits are named a"),
        (
            {"limits": [{"name": f"a{n}", "max_running": 1, "site": "X"} for n in range(1_001)]},
            "at most 1000",
        ),
    ],
    ids=[
        "no-share",
        "negative-share",
        "infinite-share",
        "share-that-is-no-number",
        "share-too-large",
        "too-many-groups",
        "too-many-owners",
        "misspelt",
        "no-selector",
        "negative-limit",
        "names-twice",
        "too-many-limits",
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_the_reason(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Policy.model_validate(body)
