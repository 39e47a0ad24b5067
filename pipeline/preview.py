"""Questions about what would be done now, answered by what does it: found by entry point, since it lies above us."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from pipeline.errors import BadSettings
from pipeline.settings import Settings
from pipeline.store.database import Transaction
from schemas.match_views import MatchRequest, MatchView
from schemas.plan_views import PlanView

GROUP = "penstock.previews"
"""The group of entry points; `matching` and `provisioning` are the ones that are asked."""


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks, and about which node."""

    vo_id: int
    request: MatchRequest


Preview = Callable[[Transaction, Settings, Question], MatchView]
"""Answers within a transaction that only reads: nothing is locked, nothing is assigned."""
PlanPreview = Callable[[Transaction, Settings, int], PlanView]
"""The same of pilots, for a VO by its id: nothing is requested. Raises DemandUnknown."""


def find_preview() -> Preview:
    """The entry point `matching`. Raises BadSettings when nothing of that name is installed."""
    preview: Preview = _find("matching")
    return preview


def find_plan_preview() -> PlanPreview:
    """The entry point `provisioning`. Raises BadSettings when nothing of that name is installed."""
    preview: PlanPreview = _find("provisioning")
    return preview


def _find(name: str) -> Any:
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()
    raise BadSettings(f"nothing answers this: no entry point `{name}` of {GROUP} is installed")
