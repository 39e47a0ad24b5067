"""Whose turn it is: usage per share of groups, and in each group of owners, charged as the round goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.store.match_rows import Account


@dataclass(frozen=True, slots=True)
class Entitlements:
    """A VO's shares with ids for names; a group or an owner that is not named has share 1."""

    groups: Mapping[int, float] = field(default_factory=dict)
    """By group id."""
    owners: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """By (group id, owner id)."""


class Shares:
    """The shares of all VOs of one round."""

    def __init__(self, entitlements: Mapping[int, Entitlements], accounts: Iterable[Account]) -> None:
        """`entitlements` by VO id; who has no account has used nothing."""
