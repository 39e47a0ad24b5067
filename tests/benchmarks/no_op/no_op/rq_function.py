"""RQ's."""

from __future__ import annotations


def pass_over(ids: list[int]) -> None:
    """Nothing is to be done about these."""
