"""What is found by entry point: looked up in what is installed once, since every site queue asks in every cycle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pipeline.errors import BadSettings


def load(group: str, name: str, *, what: str, where: str) -> Any:
    """What the entry point `name` of a group leads to. Raises BadSettings for one that is not there: it says `what` is
    missing, and `where` it is named."""
    found = _found(group, tuple(sys.path))
    if name not in found:
        there = ", ".join(sorted(found)) or "none"
        raise BadSettings(f"{where}: no {what} {name!r} is installed; there are {there}")
    return found[name].load()


@cache
def _found(group: str, _path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """Another path leads to other packages."""
    return {entry.name: entry for entry in entry_points(group=group)}
