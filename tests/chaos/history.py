"""A history: numbers in a file, appended in one write per batch, so that kill -9 takes nothing that was written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_WIDTH = 8
"""Bytes of a number: seven digits and the end of the line."""


class History:
    """One process's history, open for appending. A process that takes another's place begins a file of its own."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o644)

    def note(self, numbers: Sequence[int]) -> None:
        """Add numbers; when this returns they outlive the process."""
        content = b"".join(b"%07d\n" % number for number in numbers)
        written = os.write(self._descriptor, content)
        assert written == len(content), f"{written} of {len(content)} bytes of a history were written; is the disk full"


def read(folder: Path, kind: str) -> list[int]:
    """The numbers in all files KIND-*.txt; a last one that was cut in writing does not count."""
    found: list[int] = []
    for path in sorted(folder.glob(f"{kind}-*.txt")):
        content = path.read_bytes()
        found += map(int, content[: len(content) // _WIDTH * _WIDTH].split())
    return found


def count(folder: Path, kind: str) -> int:
    """How many numbers there are in all files KIND-*.txt, without reading them."""
    return sum(path.stat().st_size // _WIDTH for path in folder.glob(f"{kind}-*.txt"))
