"""What a node would get now: a question that matching answers, found by its entry point, since it lies above us."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from pipeline.errors import BadSettings
from pipeline.settings import Settings
from pipeline.store.database import Transaction
from schemas.match_views import MatchRequest, MatchView

GROUP = "penstock.previews"
"""The group of entry points; `matching` is the one that is asked."""


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks, and what about."""

    vo_id: int
    request: MatchRequest


Preview = Callable[[Transaction, Settings, Question], MatchView]
"""Answers within a transaction that only reads: nothing is locked, nothing is assigned."""


def find_preview() -> Preview:
    """The entry point `matching` of `penstock.previews`. Raises BadSettings when nothing of that name is installed."""
    for entry in entry_points(group=GROUP, name="matching"):
        preview: Preview = entry.load()
        return preview
    raise BadSettings(f"nothing answers this: no entry point `matching` of {GROUP} is installed")
