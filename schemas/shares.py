"""How usage fades: forward decay, the arithmetic of fair share.

What was used a half-life ago counts for half. Instead of fading every account all the time, what comes later counts
for more: a charge at t is added as charge x 2^((t - landmark) / half-life), and the sum is faded once, when it is
looked at (Cormode, Shkapenyuk, Srivastava, Xu: Forward decay, ICDE 2009). Additions therefore commute: matches,
settlements and their order do not matter.

Usage, charges and weights are core-seconds, half-lives seconds.
"""

from __future__ import annotations

from datetime import datetime

_LONGEST, _BACK = 500.0, 50.0
"""Half-lives that are told apart, forwards and backwards: with many more, weights would be no numbers any more."""


def inflation(at: datetime, landmark: datetime, half_life: float) -> float:
    """How much a core-second of `at` weighs in an account of this landmark; less than 1 where `at` came before it.

    Finite whatever lies between them: after a thousand half-lives nothing of before is left anyway.
    """
    passed = (at - landmark).total_seconds() / half_life
    return float(2.0 ** max(min(passed, _LONGEST), -_BACK))


def weight_of(charge: float, at: datetime, landmark: datetime, half_life: float) -> float:
    """What a charge of `at` adds to an account of this landmark."""
    return charge * inflation(at, landmark, half_life)


def present(weight: float, landmark: datetime, now: datetime, half_life: float) -> float:
    """What an account counts for now. Never negative: a settlement may be larger than what is left by rounding."""
    return max(weight, 0.0) / inflation(now, landmark, half_life)


def moved(weight: float, landmark: datetime, new_landmark: datetime, half_life: float) -> float:
    """The same account as of another landmark."""
    return present(weight, landmark, new_landmark, half_life)


def settlement(charge: float, used: float, matched_at: datetime, landmark: datetime, half_life: float) -> float:
    """What an account's weight changes by when an attempt ends that was charged at `matched_at` and took `used`.

    It corrects the charge where it was made: afterwards the account is as if `used` had been charged then.
    """
    return weight_of(used - charge, matched_at, landmark, half_life)


def used_by(cores: int, started_at: datetime | None, ended_at: datetime) -> int:
    """Core-seconds that an attempt took: from when it was given its cores until its end; none if it never started."""
    return 0 if started_at is None else round(cores * max((ended_at - started_at).total_seconds(), 0.0))
