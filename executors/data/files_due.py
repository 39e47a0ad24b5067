"""FilesDue: compare files of the catalogue with their storages; a replica that does not agree is lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from executors.data.comparison import Answers, ask
from executors.data.decide import mismatch
from pipeline.runtime.spec import Context
from pipeline.store import files
from pipeline.store.database import Transaction
from pipeline.store.files import Replica, StorageRow


def compare(context: Context, file_ids: Sequence[int]) -> None:
    """Check every known replica of these files and note the result."""

    def read(tx: Transaction) -> tuple[list[Replica], Mapping[int, StorageRow]]:
        found = files.replicas_of(tx, file_ids)
        return found, files.storage_rows(tx, {replica.storage_id for replica in found})

    replicas, storages = context.database.read(read)
    answers = ask(storages, [(replica.storage_id, replica.path) for replica in replicas])
    context.database.transact(lambda tx: _note(tx, context.settings.wake_after, replicas, answers))


def _note(tx: Transaction, wake_after: float, replicas: Sequence[Replica], answers: Answers) -> None:
    results: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    again: list[int] = []
    for replica in replicas:
        if replica.storage_id in answers.silent:
            again.append(replica.file_id)
            continue
        stat = answers.stats[replica.storage_id, replica.path]
        state = "usable" if mismatch(replica.size, replica.adler32, stat) is None else "lost"
        results[replica.storage_id, state].append(replica.file_id)
    for (storage_id, state), ids in sorted(results.items()):
        files.set_replica_states(tx, storage_id, ids, state)
    files.set_files_wake_at(tx, sorted(again), wake_after)
