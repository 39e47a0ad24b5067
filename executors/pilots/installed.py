"""Entry points by name: looked up in what is installed once, since every site queue asks in every cycle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points


def installed(group: str) -> Mapping[str, EntryPoint]:
    """Those of a group."""
    return _found(group, tuple(sys.path))


@cache
def _found(group: str, _path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """Another path leads to other packages."""
    return {entry.name: entry for entry in entry_points(group=group)}
