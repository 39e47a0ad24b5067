"""Pilots of eight cores at all sites, each with its slot on offer, loaded in bulk before a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from random import Random

from sqlalchemy import delete, func, select, update

from pipeline.store.database import Database, Transaction, in_chunks
from pipeline.store.tables import pilots, slots
from schemas.sites import SiteQueueEntry
from schemas.states import PilotState
from tests.benchmarks.matching_loading import Loaded

_AWAY = 4 * 3_600
"""Seconds that pilots count as alive without heartbeats, which nobody sends here."""


@dataclass(frozen=True, slots=True)
class _Queue:
    id: int
    site_id: int
    kind_id: int
    entry: SiteQueueEntry


def add_pilots(database: Database, loaded: Loaded, many: int) -> range:
    """So many running pilots with slots in state `offered`, spread over the farms by their weights; their ids."""
    farms = loaded.world.farms
    queues = [
        _Queue(number, loaded.site_ids[farm.site], loaded.kind_ids[number - 1], farm.declared())
        for number, farm in enumerate(farms, 1)
    ]
    first = database.read(lambda tx: int(tx.scalar(select(func.coalesce(func.max(pilots.c.id), 0))))) + 1
    random = Random(first)
    weights = list(accumulate(farm.weight for farm in farms))
    ids = range(first, first + many)
    placed = list(zip(ids, random.choices(queues, cum_weights=weights, k=many), strict=True))
    for some in in_chunks(placed, 10_000):
        database.transact(partial(_add, vo_id=loaded.vo_id, placed=some, random=random))
    return ids


def end_pilots(database: Database, ids: range) -> None:
    """They are gone, and take nothing in later runs; their jobs stay as they are."""

    def work(tx: Transaction) -> None:
        tx.run(delete(slots).where(slots.c.pilot_id.between(ids[0], ids[-1])))
        ended = update(pilots).where(pilots.c.id.between(ids[0], ids[-1]))
        tx.run(ended.values(state=PilotState.DONE, ended_at=tx.now))

    database.transact(work)


def _add(tx: Transaction, vo_id: int, placed: Sequence[tuple[int, _Queue]], random: Random) -> None:
    ends = {number: tx.after(queue.entry.lifetime(300) * random.uniform(0.5, 1)) for number, queue in placed}
    tx.add_all(
        pilots,
        [
            {
                "id": number,
                "tag": f"bench-{number}",
                "site_queue_id": queue.id,
                "site_id": queue.site_id,
                "vo_id": vo_id,
                "state": PilotState.RUNNING,
                "cores": queue.entry.cores,
                "resource_id": queue.kind_id,
                "requested_at": tx.now,
                "started_at": tx.now,
                "last_seen": tx.after(_AWAY),
                "ends_at": ends[number],
            }
            for number, queue in placed
        ],
    )
    tx.add_all(slots, [_slot(tx, vo_id, number, queue) | {"ends_at": ends[number]} for number, queue in placed])


def _slot(tx: Transaction, vo_id: int, number: int, queue: _Queue) -> dict[str, object]:
    gpu = queue.entry.gpu
    return {
        "pilot_id": number,
        "vo_id": vo_id,
        "state": "offered",
        "cores": queue.entry.cores,
        "memory": queue.entry.memory,
        "disk": queue.entry.disk,
        "gpus": 0 if gpu is None else gpu.count,
        "offered_at": tx.now,
        "wake_at": tx.after(_AWAY),
    }
