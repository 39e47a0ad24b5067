"""Words of newer releases that say nothing are not written: so an older release reads what it could have written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel


def without_silent(model: BaseModel, written: Mapping[str, Any], newer: Collection[str]) -> dict[str, Any]:
    """What was written of a model, but for those of its fields `newer` that have their defaults."""
    fields = type(model).model_fields
    return {
        name: value
        for name, value in written.items()
        if name not in newer or getattr(model, name) != fields[name].default
    }
