"""The storage port: what every storage must answer from its metadata; the server never reads the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from pipeline.errors import BadSettings


@dataclass(frozen=True, slots=True)
class Stat:
    """What a storage knows of a file. `adler32` is None where it has no checksum that holds."""

    size: int
    adler32: str | None


class Storage(Protocol):
    """One storage, by its root. Paths are relative to it. Every call may raise StorageUnavailable."""

    def stat(self, paths: Iterable[str]) -> Mapping[str, Stat | None]:
        """What it knows of each path; None for a path that is not there."""

    def delete(self, folders: Iterable[str]) -> None:
        """Remove folders with all that is in them; one that is not there is fine."""


def open_storage(kind: str, url: str) -> Storage:
    """The storage of an entry point of `penstock.storages`. Raises BadSettings for an unknown kind."""
    found = {entry.name: entry for entry in entry_points(group="penstock.storages")}
    if kind not in found:
        raise BadSettings(f"no storage is of kind {kind!r}; there are {', '.join(sorted(found))}")
    opener: Callable[[str], Storage] = found[kind].load()
    return opener(url)
