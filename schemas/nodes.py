"""What one slot has: what its node was found to be like, what its site queue declares, and what its pilot offers."""

from __future__ import annotations

from schemas.campaign import Model
from schemas.requirements import Resource
from schemas.rooms import Room
from schemas.sites import SiteQueueEntry


class NodeKind(Model):
    """What a pilot found its node to be like, apart from totals: the same for all nodes of a kind."""


def slot_resource(site: str, entry: SiteQueueEntry, node: NodeKind | None, totals: Room) -> Resource:
    """The resource of a slot: the declared entry, overruled by what was measured, with all that the pilot offers.

    `wall_time` is the entry's, so that equal slots have equal resources: the time that is left is no part of it.
    `node` is None for a pilot that was let in by the release before 0.3.0.
    """
    del node
    return Resource(
        site=site,
        cores=totals.cores,
        memory=totals.memory,
        disk=totals.disk,
        wall_time=entry.wall_time,
        tags=entry.tags,
    )
