"""Slots that are kept for wide jobs: nothing narrower is put there until the job came."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import func, select, update

from pipeline.store.database import Transaction, in_chunks
from pipeline.store.tables import slots, waiting_jobs


def nodes(tx: Transaction) -> Mapping[int, tuple[int, Mapping[int, int]]]:
    """Slots of each VO, and how many of them are kept for each autocluster."""
    counted = select(slots.c.vo_id, slots.c.reserved_for, func.count().label("many"))
    total: defaultdict[int, int] = defaultdict(int)
    kept: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for row in tx.rows(counted.group_by(slots.c.vo_id, slots.c.reserved_for)):
        total[row.vo_id] += row.many
        if row.reserved_for is not None:
            kept[row.vo_id][row.reserved_for] = row.many
    return {vo_id: (many, kept[vo_id]) for vo_id, many in total.items()}


def waiting_for(tx: Transaction, autocluster_id: int, most: int) -> int:
    """How many jobs of an autocluster wait, as far as `most`."""
    some = select(waiting_jobs.c.job_id).where(waiting_jobs.c.autocluster_id == autocluster_id)
    return int(tx.scalar(select(func.count()).select_from(some.limit(most).subquery())))


def reserve(tx: Transaction, changes: Mapping[int, int | None]) -> None:
    """Keep locked slots for the jobs of an autocluster, or for nobody any more."""
    of_cluster: defaultdict[int | None, list[int]] = defaultdict(list)
    for pilot_id, autocluster_id in changes.items():
        of_cluster[autocluster_id].append(pilot_id)
    for autocluster_id, pilot_ids in of_cluster.items():
        for chunk in in_chunks(sorted(pilot_ids)):
            tx.run(update(slots).where(slots.c.pilot_id.in_(chunk)).values(reserved_for=autocluster_id))
