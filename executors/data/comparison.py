"""Asking many storages about many files at once, by metadata only; one that is down holds up no other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from structlog import get_logger

from executors.data.port import Stat, open_storage
from pipeline.errors import PenstockError
from pipeline.store.files import StorageRow

_log = get_logger("data")
MAX_THREADS = 8


@dataclass(slots=True)
class Answers:
    """What the storages said: `stats` by (storage id, path), and which storages gave no answer."""

    stats: dict[tuple[int, str], Stat | None] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)


def ask(storages: Mapping[int, StorageRow], wanted: Iterable[tuple[int, str]]) -> Answers:
    """Stat every (storage id, path), one bulk request per storage, all storages side by side."""
    by_storage: defaultdict[int, list[str]] = defaultdict(list)
    for storage_id, path in wanted:
        by_storage[storage_id].append(path)
    answers = Answers()
    if not by_storage:
        return answers
    with ThreadPoolExecutor(min(MAX_THREADS, len(by_storage))) as pool:
        asked = {i: pool.submit(_stat, storages[i], paths) for i, paths in by_storage.items()}
    for storage_id, future in asked.items():
        found = future.result()
        if found is None:
            answers.silent.add(storage_id)
        else:
            answers.stats |= {(storage_id, path): stat for path, stat in found.items()}
    return answers


def _stat(storage: StorageRow, paths: list[str]) -> Mapping[str, Stat | None] | None:
    try:
        return open_storage(storage.kind, storage.url).stat(paths)
    except PenstockError as error:
        _log.warning("storage_unavailable", storage=storage.name, error=str(error))
        return None
